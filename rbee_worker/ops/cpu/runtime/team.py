"""The worker's own threads: started once, spinning inside a step, asleep when there is none.

The caller is thread 0. The others live in one native call each (`team.work`), so the interpreter
lock is never involved. A team runs one program at a time and its methods are called by one thread.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np

from rbee_worker.ops.cpu.runtime.native import CALL, Library
from rbee_worker.ops.cpu.shared import team_memory as m
from rbee_worker.ops.cpu.shared.regions import Words, zeros

SPIN_TICKS = 3_000_000  # of the processor's clock, 1 to 2 ms: longer than the pause between steps

KERNELS = ("team.lead", "team.work", "team.stop")


class Team:
    """`threads` threads with one barrier."""

    def __init__(self, library: Library, threads: int) -> None:
        assert threads >= 1
        library.load(KERNELS)
        self.threads = threads
        self._memory: Words = zeros(m.BYTES).view(np.int64)
        self._words = memoryview(self._memory)  # type: ignore[arg-type]
        self._open = True
        self._lead = library["team.lead"].pack(team=self._memory)
        self._lead_at = self._lead.address
        self._call = CALL(library["team.lead"].address)
        self._stop = CALL(library["team.stop"].address)
        self._stop_args = library["team.stop"].pack(team=self._memory)
        self._library = library  # its code is in use
        work = library["team.work"]
        args = work.pack(team=self._memory, spin=SPIN_TICKS)

        def live(tid: int) -> None:
            CALL(work.address)(args.address, 0, tid, threads)

        self._threads = [
            threading.Thread(target=live, args=(tid,), name=f"rbee-cpu-{tid}", daemon=True)
            for tid in range(1, threads)
        ]
        for thread in self._threads:
            thread.start()
        self._end = weakref.finalize(self, _finish, self._stop, self._stop_args, self._threads)

    def run(self, entries: Words, header: Words, times: Words | None = None) -> None:
        """Replay `entries` (`instruction.py`) with `header`.

        times [count + 1]: the clock before each entry.
        """
        count = len(entries)
        assert times is None or len(times) == count + 1
        at = 0 if times is None else times.ctypes.data
        self.replay(entries.ctypes.data, count, header.ctypes.data, at)

    def replay(self, entries: int, count: int, header: int, times: int = 0) -> None:
        """Like `run`, for callers that already hold the addresses: `array.ctypes.data` costs
        microseconds, and far more right after a step has flushed the caches."""
        assert self._open, "the team is closed"
        words = self._words
        words[m.ENTRIES // 8] = entries
        words[m.COUNT // 8] = count
        words[m.STEP // 8] = header
        words[m.TIMES // 8] = times
        self._call(self._lead_at, header, 0, self.threads)

    def close(self) -> None:
        """End the threads. A second call does nothing."""
        self._open = False
        self._end()


def _finish(stop: object, args: object, threads: list[threading.Thread]) -> None:
    stop(args.address, 0, 0, 1)  # type: ignore[operator, attr-defined]
    for thread in threads:
        thread.join()
