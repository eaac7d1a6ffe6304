"""The worker's own threads: started once, spinning inside a step, asleep when there is none.

The caller is thread 0. The others live in one native call each (`team.work`), so the interpreter
lock is never involved. A team runs one program at a time and its methods are called by one thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

import numpy as np

from rbee_worker.errors import UsageError
from rbee_worker.ops.cpu.runtime.native import CALL, Library
from rbee_worker.ops.cpu.shared import team_memory as m
from rbee_worker.ops.cpu.shared.regions import Words, zeros

SPIN_TICKS = 3_000_000  # of the processor's clock, 1 to 2 ms: longer than the pause between steps

KERNELS = ("team.lead", "team.work", "team.stop")


def allowed_cores() -> list[int]:
    """Logical processors this process may use, one for each physical core, lowest first."""
    cores: dict[tuple[str, str], int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        where = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            key = ((where / "physical_package_id").read_text(), (where / "core_id").read_text())
        except OSError:
            key = ("", str(cpu))
        cores.setdefault(key, cpu)
    return sorted(cores.values())


def quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that the control group grants, None for all."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 else None


def thread_count(asked: int) -> int:
    """Threads of a team: `asked`, or for 0 the physical cores allowed, within the quota.

    Raises UsageError for a negative number or more threads than processors allowed.
    """
    most = len(os.sched_getaffinity(0))
    if not 0 <= asked <= most:
        raise UsageError(
            f"--threads {asked} cannot be met: this process may use {most} processors.",
            fix=f"use 1 to {most}, or 0 for one a physical core.",
        )
    if asked:
        return asked
    limit = quota()
    cores = len(allowed_cores())
    return cores if limit is None else max(1, min(cores, int(limit)))


class Team:
    """`threads` threads with one barrier. `pin`: thread n stays on the n-th allowed core."""

    def __init__(self, library: Library, threads: int, *, pin: bool = False) -> None:
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
        cores = allowed_cores()
        if pin:
            os.sched_setaffinity(0, {cores[0]})
        work = library["team.work"]
        args = work.pack(team=self._memory, spin=SPIN_TICKS)

        def live(tid: int) -> None:
            if pin:
                os.sched_setaffinity(0, {cores[tid % len(cores)]})
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
        """`run` for who keeps addresses: asking an array for its own takes microseconds, and many
        times that when a step's weights have just gone through the caches."""
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
