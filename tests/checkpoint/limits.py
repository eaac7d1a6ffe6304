"""Run something within the time and memory that a hostile file may cost."""

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from rbee_worker.errors import CheckpointError

SECONDS = 1.0
BYTES = 100 << 20


def refusal(run: Callable[[], Any], *, traced: bool = True) -> CheckpointError:
    """The error of `run`, which must take less than a second of CPU and 100 MB.

    It runs twice, for tracing memory is slow: too slow for a run that allocates much and little
    at a time (traced: do it).
    """
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        run()
    assert time.process_time() - started < SECONDS
    if traced:
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError):
                run()
            assert tracemalloc.get_traced_memory()[1] < BYTES
        finally:
            tracemalloc.stop()
    error = caught.value
    assert error.fix
    assert "\n" not in str(error)
    return error
