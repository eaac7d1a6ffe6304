"""Elementwise operations. Threads share cells of `cell` columns of the result, row after row; a
cell may be a whole row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import step as header

f32 = np.float32
ACTS = (  # in the order of the numbers that `vmath.activate` takes
    *("silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2"),
    *("sigmoid", "tanh"),
)


def _act(kind: int) -> Callable[..., Any]:
    @device
    def act(x: Vector) -> Vector:
        return vmath.activate(x, kind)

    return act


def _one(f: Callable[..., Any]) -> Callable[..., None]:
    """y = f(x, a)"""

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, y: Ptr, y_stride: Int, width: Int, cell: Int, a: Float,
    ) -> None:  # fmt: skip
        cells = s.idiv(width + cell - 1, cell)
        n = s.get_i64(step + header.N) * cells
        for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
            t, c = s.idiv(item, cells), s.imod(item, cells) * cell
            for i in range(c, s.smaller(c + cell, width), 16):
                v = f(load_upto(x + 4 * (t * x_stride + i), width - i), s.fill(a))
                store_upto(y + 4 * (t * y_stride + i), v, width - i)

    return run


def _two(f: Callable[..., Any]) -> Callable[..., None]:
    """y = f(x, z)"""

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, z: Ptr, z_stride: Int, y: Ptr, y_stride: Int, width: Int,
        cell: Int,
    ) -> None:  # fmt: skip
        cells = s.idiv(width + cell - 1, cell)
        n = s.get_i64(step + header.N) * cells
        for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
            t, c = s.idiv(item, cells), s.imod(item, cells) * cell
            for i in range(c, s.smaller(c + cell, width), 16):
                left = width - i
                a = load_upto(x + 4 * (t * x_stride + i), left)
                b = load_upto(z + 4 * (t * z_stride + i), left)
                store_upto(y + 4 * (t * y_stride + i), f(a, b), left)

    return run


@device
def _scale(x: Vector, a: Vector) -> Vector:
    return s.mul(x, a)


@device
def _softcap(x: Vector, cap: Vector) -> Vector:
    return s.mul(vmath.tanh(s.div(x, cap)), cap)


@device
def _copy(x: Vector, a: Vector) -> Vector:
    return x


@device
def _clip(x: Vector, a: Vector) -> Vector:
    return s.minimum(a, s.maximum(s.sub(s.zeros(), a), x))  # of a nan these give the nan


@device
def _add(x: Vector, z: Vector) -> Vector:
    return s.add(x, z)


@device
def _multiply(x: Vector, z: Vector) -> Vector:
    return s.mul(x, z)


def build(variant: str) -> Kernel:
    """`each.scale|softcap|copy|clip|add|multiply`, `each.act-<kind>`, or `each.gated-<kind>`:
    act(x) * z."""
    what, _, kind = variant.partition("-")
    if what == "act":
        act = _act(ACTS.index(kind))

        @device
        def plain(x: Vector, a: Vector) -> Vector:
            return act(x)

        return kernel(f"each.{variant}")(_one(plain))
    if what == "gated":
        gate = _act(ACTS.index(kind))

        @device
        def gated(x: Vector, z: Vector) -> Vector:
            return s.mul(gate(x), z)

        return kernel(f"each.{variant}")(_two(gated))
    if what in ("add", "multiply"):
        return kernel(f"each.{variant}")(_two(_add if what == "add" else _multiply))
    f = {"scale": _scale, "softcap": _softcap, "copy": _copy, "clip": _clip}[what]
    return kernel(f"each.{variant}")(_one(f))
