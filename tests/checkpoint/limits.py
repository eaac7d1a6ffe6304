"""Run something within the time and memory that a hostile file may cost."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from rbee_worker.errors import CheckpointError
from tests.yardstick import cpu_s, interpreter_s, ratio

ROUNDS = 40  # of `interpreter_s`: a second of the machine this was written on
BYTES = 100 << 20


def refusal(run: Callable[[], Any], *, traced: bool = True) -> CheckpointError:
    """The error of `run`, which must take less time than 4 million rounds of Python, and 100 MB.

    It runs at least twice, for tracing memory is slow: too slow for a run that allocates much and
    little at a time (traced: do it).
    """
    found: list[CheckpointError] = []

    def refused() -> None:
        with pytest.raises(CheckpointError) as caught:
            run()
        found.append(caught.value)

    assert ratio(lambda: cpu_s(refused), interpreter_s, ROUNDS) < ROUNDS
    if traced:
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError):
                run()
            assert tracemalloc.get_traced_memory()[1] < BYTES
        finally:
            tracemalloc.stop()
    error = found[-1]
    assert " Fix: " in error.line
    assert "\n" not in str(error)
    return error
