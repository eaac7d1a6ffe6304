"""Kernels that show whether a barrier works; only tests run them."""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr


def _add(step: Ptr, tid: Int, nt: Int, cells: Ptr) -> None:
    """Add 1 to this thread's cell (64 bytes apart), after a while that differs by thread."""
    for _ in range(40 * tid):
        s.pause()
    p = cells + 64 * tid
    s.set_i64(p, s.get_i64(p) + 1)


def _check(step: Ptr, tid: Int, nt: Int, cells: Ptr, wrong: Ptr) -> None:
    """Count in `wrong` [threads, 8] the threads whose cell differs from this one's."""
    mine = s.get_i64(cells + 64 * tid)
    for other in range(nt):
        if s.get_i64(cells + 64 * other) != mine:
            s.set_i64(wrong + 64 * tid, s.get_i64(wrong + 64 * tid) + 1)


_KINDS: dict[str, Callable[..., None]] = {"add": _add, "check": _check}


def build(variant: str) -> Kernel:
    """`team_probe.add` or `team_probe.check`."""
    return kernel(f"team_probe.{variant}")(_KINDS[variant])
