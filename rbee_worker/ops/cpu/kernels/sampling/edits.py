"""Bias, penalties and bans, applied to the few logits that they change. `engine/penalties.py`
defines them. Threads share rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.shares import share
from rbee_worker.ops.cpu.shared import sampling_memory as r

f32 = np.float32


@device
def _edited(z: Float, entry: Ptr, width: Int, early: Int, factors: Ptr) -> Float:
    """A logit with its edits. entry: the first of its values, which are `width` floats apart."""
    bias, banned = s.get_f32(entry), s.get_f32(entry + 4 * width)
    window, output = s.get_f32(entry + 8 * width), s.get_f32(entry + 12 * width)
    if bias != f32(0.0):
        z = z + bias
    if window > f32(0.0):
        by = s.get_f32(factors)
        z = z / by if z > f32(0.0) else z * by
    if output > f32(0.0):
        z = z - s.get_f32(factors + 4) - output * s.get_f32(factors + 8)
    if early != 0 and banned > f32(0.0):
        z = f32(-np.inf)
    return z


def _apply(step: Ptr, tid: Int, nt: Int) -> None:
    """Change the logits that entries name, and keep their values from before."""
    rows, table = s.get_i64(step + r.ROWS), s.get_i64(step + r.RECORDS)
    for row in range(share(tid, nt, rows), share(tid + 1, nt, rows)):
        record = table + r.EDIT_BYTES * row
        z, ids = s.get_i64(record + r.EDITED), s.get_i64(record + r.IDS)
        values, width = s.get_i64(record + r.VALUES), s.get_i64(record + r.WIDTH)
        early, factors = s.get_i64(record + r.EARLY), s.get_i64(record + r.FACTORS)
        before = s.get_i64(record + r.BEFORE)
        for i in range(s.get_i64(record + r.COUNT)):
            at = z + 4 * s.get_i32(ids + 4 * i)
            s.copy_i32(before + 4 * i, at)
            s.set_f32(at, _edited(s.get_f32(at), values + 4 * i, width, early, factors))


def _undo(step: Ptr, tid: Int, nt: Int) -> None:
    """Restore the logits from before."""
    rows, table = s.get_i64(step + r.ROWS), s.get_i64(step + r.RECORDS)
    for row in range(share(tid, nt, rows), share(tid + 1, nt, rows)):
        record = table + r.EDIT_BYTES * row
        z, ids = s.get_i64(record + r.EDITED), s.get_i64(record + r.IDS)
        before = s.get_i64(record + r.BEFORE)
        for i in range(s.get_i64(record + r.COUNT)):
            s.copy_i32(z + 4 * s.get_i32(ids + 4 * i), before + 4 * i)


_KINDS: dict[str, Callable[..., None]] = {"apply": _apply, "undo": _undo}


def build(variant: str) -> Kernel:
    """`edits.apply` or `edits.undo`."""
    return kernel(f"edits.{variant}")(_KINDS[variant])
