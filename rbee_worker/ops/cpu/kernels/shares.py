"""How threads share a step's work, and vectors at the end of a row.

Threads share rows, or cells of a few columns, by one formula. Two kernels that share in the same
way read and write the same numbers on the same thread, so no barrier is needed between them; the
recorder relies on that.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Vector


@device
def share(tid: Int, nt: Int, count: Int) -> Int:
    """The first of `count` items that thread `tid` works on; the first of tid + 1 is its end."""
    return s.idiv(tid * count, nt)


@device
def claim(ticket: Ptr, pieces: Int, nt: Int) -> Int:
    """The next of `pieces` that no thread has taken, or `pieces` if none is left (`pieces.py`).

    Every thread asks until none is left; the last one resets the ticket for the next replay.
    """
    n = s.atomic_add(ticket, 1)
    if n == pieces + nt - 1:
        s.atomic_store(ticket, 0)
    return s.smaller(n, pieces)


@device
def load_upto(p: Ptr, left: Int) -> Vector:
    """16 floats at p; if `left` is less than 16, `left` of them and zeros."""
    if left >= 16:
        return s.load_f32(p)
    return s.load_first(p, left)


@device
def store_upto(p: Ptr, v: Vector, left: Int) -> None:
    """Write 16 lanes at p, or the first `left` if that is less."""
    if left >= 16:
        s.store_f32(p, v)
    else:
        s.store_first(p, v, left)
