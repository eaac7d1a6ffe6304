"""Run something within the time and memory that a hostile file may cost."""

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 1.0
BYTES = 100 << 20


@contextmanager
def cheap() -> Iterator[None]:
    """Fails unless the block takes less than a second of CPU and 100 MB."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
    finally:
        spent = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert spent < SECONDS
    assert peak < BYTES
