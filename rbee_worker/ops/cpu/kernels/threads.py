"""Barrier, sleep and wake-up for the team's threads, inside kernels.

A barrier's memory: int64 `arrived` at 0, int64 `released` at 64 (on a separate cache line). Both
only grow: `phase` is how many barriers this thread has passed since the memory was zero, the same
number on every thread. Threads sleep with Linux's futex; in code for other systems they yield.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op

ARRIVED, RELEASED = 0, 64
LINE = 64  # bytes of a cache line
PATIENCE = 300  # pauses before a waiting thread yields its core

_FUTEX = {"x86_64": 202, "aarch64": 98}
_WAIT, _WAKE = 128, 129  # private futexes
_EVERYBODY = 2**31 - 1


def _futex(b: e.Builder, address: e.Value, what: e.Value, value: e.Value) -> None:
    triple = str(b.module.triple)
    machine = triple.partition("-")[0]
    if machine not in _FUTEX or "linux" not in triple:
        e.call(b, "sched_yield", e.i32, ())
        return
    nothing = e.ir.Constant(e.i64, 0)
    number = e.ir.Constant(e.i64, _FUTEX[machine])
    fn = b.module.globals.get("syscall")
    if fn is None:
        fn = e.ir.Function(b.module, e.ir.FunctionType(e.i64, [e.i64], var_arg=True), "syscall")
    b.call(fn, [number, address, what, value, nothing, nothing, nothing])


_futex_call = op(Void, Ptr, Int, Int)(_futex)
clock = op(Int)(lambda b: e.call(b, "llvm.readcyclecounter", e.i64, ()))


@device
def barrier(memory: Ptr, nt: Int, phase: Int, at: Int, end: Int) -> tuple[Int, Int]:
    """Wait until all `nt` threads have arrived; meanwhile prefetch at .. end.

    Returns the next phase, and how far the prefetching got.
    """
    phase += 1
    if s.atomic_add(memory + ARRIVED, 1) == phase * nt - 1:
        s.atomic_store(memory + RELEASED, phase)
        return phase, at
    spins = 0
    while s.atomic_load(memory + RELEASED) < phase:
        if at < end:
            s.prefetch(at)
            at += LINE
        elif spins < PATIENCE:
            s.pause()
            spins += 1
        else:
            s.sched_yield()
    return phase, at


@device
def sleep_while(address: Ptr, value: Int) -> None:
    """Sleep until woken, unless the 32-bit integer at `address` differs from `value`."""
    _futex_call(address, _WAIT, value)


@device
def wake(address: Ptr) -> None:
    """Wake every thread that sleeps on `address`."""
    _futex_call(address, _WAKE, _EVERYBODY)
