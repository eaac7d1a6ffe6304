"""What the event loop of a served worker spends in one go, in processor time of its own thread.

That time does not depend on what else the machine does, and it is compared with the time of a fixed
piece of work that is measured in the same minute: no test depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import Iterator

from rbee_worker.server.json_shape import MOST_VALUES

YARDSTICK = b"[" + b"1," * (MOST_VALUES - 1) + b"1]"  # decoded in a few hundredths of a second


class LoopTime:
    """`worst`: seconds of the longest callback; `where`: which it was."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.where = ""


@contextlib.contextmanager
def watched(loop: asyncio.AbstractEventLoop) -> Iterator[LoopTime]:
    """Measure every callback of `loop` (the standard library's, in another thread)."""
    seen = LoopTime()
    plain = asyncio.Handle._run

    def run(handle: asyncio.Handle) -> None:
        if handle._loop is not loop:
            return plain(handle)
        began = time.thread_time()
        try:
            return plain(handle)
        finally:
            spent = time.thread_time() - began
            if spent > seen.worst:
                seen.worst, seen.where = spent, repr(handle)[:300]

    asyncio.Handle._run = run  # type: ignore[method-assign]
    try:
        yield seen
        # the callback that wrote the last answer may not have returned when the answer is read
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
    finally:
        asyncio.Handle._run = plain  # type: ignore[method-assign]


def yardstick() -> tuple[float, float]:
    """Seconds that the fixed piece of work takes now: (processor time, by the clock), medians of
    three."""
    spent, passed = [], []
    for _ in range(3):
        gc.collect()
        began, clock = time.thread_time(), time.monotonic()
        json.loads(YARDSTICK)
        spent.append(time.thread_time() - began)
        passed.append(time.monotonic() - clock)
    return sorted(spent)[1], sorted(passed)[1]
