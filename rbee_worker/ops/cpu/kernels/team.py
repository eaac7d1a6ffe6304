"""The loops of the team's threads: `team.lead` on the caller's thread, `team.work` on the others.

A program is an array of instructions (`instruction.py`); `team_memory.py` describes the team's
memory. The memory bus would be idle while a thread waits at a barrier, so the thread prefetches the
first weights that it will read next into its second-level cache. That changes no result.
"""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.threads import barrier, clock, sleep_while, wake
from rbee_worker.ops.cpu.shared.instruction import BYTES
from rbee_worker.ops.cpu.shared.team_memory import (
    BARRIER,
    COUNT,
    ENTRIES,
    EPOCH,
    PHASE,
    SLEEPERS,
    STEP,
    STOP,
    TIMES,
)

PREFETCHED = 1 << 17  # bytes at most: more than fit into a wait, fewer than the cache holds


@device
def _replay(team: Ptr, tid: Int, nt: Int, phase: Int) -> Int:
    """Run this thread's share of all entries. Returns the next phase of the barrier."""
    entries, count = s.get_i64(team + ENTRIES), s.get_i64(team + COUNT)
    step, times = s.get_i64(team + STEP), s.get_i64(team + TIMES)
    weights, at, end = (
        0,
        0,
        0,
    )  # the weights read next, and the part of them that is still to be prefetched
    for n in range(count):
        entry = entries + BYTES * n
        if nt > 1 and s.get_i64(entry + 16) != 0:
            if s.get_i64(entry + 24) != weights:
                weights = s.get_i64(entry + 24)
                groups, size = s.get_i64(entry + 32), s.get_i64(entry + 40)
                at = weights + s.idiv(tid * groups, nt) * size
                end = s.smaller(at + PREFETCHED, weights + s.idiv((tid + 1) * groups, nt) * size)
            phase, at = barrier(team + BARRIER, nt, phase, at, end)
        if times != 0 and tid == 0:
            s.set_i64(times + 8 * n, clock())
        args = s.get_i64(entry + 8) + tid * s.get_i64(entry + 48)
        if s.get_i64(entry + 56) != 0:
            s.call_kernel(s.get_i64(entry), args, step, 0, 1)
        else:
            s.call_kernel(s.get_i64(entry), args, step, tid, nt)
    if nt > 1:
        phase, at = barrier(team + BARRIER, nt, phase, 0, 0)
    if times != 0 and tid == 0:
        s.set_i64(times + 8 * count, clock())
    return phase


def _lead(step: Ptr, tid: Int, nt: Int, team: Ptr) -> None:
    """Thread 0's part of one replay; returns when every thread has done its own."""
    if nt > 1:
        s.atomic_add(team + EPOCH, 1)
        if s.atomic_load(team + SLEEPERS) > 0:
            wake(team + EPOCH)
    s.set_i64(team + PHASE, _replay(team, 0, nt, s.get_i64(team + PHASE)))


def _work(step: Ptr, tid: Int, nt: Int, team: Ptr, spin: Int) -> None:
    """Replay whenever the epoch moves; between replays spin for `spin` ticks, then sleep."""
    phase = s.get_i64(team + PHASE)
    epoch = 0
    while True:
        start = clock()
        while s.atomic_load(team + EPOCH) == epoch:
            if clock() - start < spin:
                s.pause()
            else:
                s.atomic_add(team + SLEEPERS, 1)
                sleep_while(team + EPOCH, epoch & 0xFFFFFFFF)
                s.atomic_add(team + SLEEPERS, -1)
        epoch += 1
        if s.atomic_load(team + STOP) != 0:
            return
        phase = _replay(team, tid, nt, phase)


def _stop(step: Ptr, tid: Int, nt: Int, team: Ptr) -> None:
    """Let `team.work` return on every thread."""
    s.atomic_store(team + STOP, 1)
    s.atomic_add(team + EPOCH, 1)
    wake(team + EPOCH)


_PARTS: dict[str, Callable[..., None]] = {"lead": _lead, "work": _work, "stop": _stop}


def build(variant: str) -> Kernel:
    """`team.lead`, `team.work` or `team.stop`."""
    return kernel(f"team.{variant}")(_PARTS[variant])
