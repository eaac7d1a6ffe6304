"""Kernels that apply one vector operation each, so that tests can compare it with numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.sampling import doubles as d

Run = Callable[..., None]
_CODEBOOK = s.lookup(tuple(range(-128, 128, 16)))

_F = {  # F32x16 -> F32x16
    "exp": vmath.exp,
    "exp_weight": vmath.exp_weight,
    "one_minus_exp": vmath.one_minus_exp,
    "tanh": vmath.tanh,
    "erf": vmath.erf,
    "sigmoid": vmath.sigmoid,
    "softplus": vmath.softplus,
    "nearest": s.nearest,
    "magnitude": s.magnitude,
    "sqrt": s.sqrt,
}
_FF = {
    "add": s.add,
    "sub": s.sub,
    "mul": s.mul,
    "div": s.div,
    "maximum": s.maximum,
    "minimum": s.minimum,
    "with_sign": s.with_sign,
}
_LOAD = {"load_f16": s.load_f16, "load_bf16": s.load_bf16}
_STORE = {"store_f16": s.store_f16, "store_bf16": s.store_bf16}
_II = {"iadd": s.iadd, "isub": s.isub, "imul": s.imul, "iand": s.iand, "ior": s.ior, "ixor": s.ixor}
_SHIFT = {"shl": s.shl, "shr": s.shr, "sar": s.sar}
_BYTES = {"load_u8": s.load_u8, "load_s8": s.load_s8}
_TREE = {"total": s.total, "largest": s.largest}


def build(variant: str) -> Kernel:
    """The kernel that applies operation `variant` to n vectors: x, y, z -> out."""
    return kernel(f"probe.{variant}")(_runner(variant))


def _runner(variant: str):  # type: ignore[no-untyped-def]
    if variant in _F:
        return _unary(_F[variant])
    if variant in _FF:
        return _binary(_FF[variant])
    if variant in _LOAD:
        return _loads(_LOAD[variant])
    if variant in _STORE:
        return _stores(_STORE[variant])
    if variant in _II:
        return _integers(_II[variant])
    if variant in _SHIFT:
        return _shifts(_SHIFT[variant])
    if variant in _BYTES:
        return _bytes(_BYTES[variant])
    if variant in _TREE:
        return _trees(_TREE[variant])
    return _OTHERS[variant]


def _unary(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.store_f32(out + 64 * i, f(s.load_f32(x + 64 * i)))

    return run


def _binary(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.store_f32(out + 64 * i, f(s.load_f32(x + 64 * i), s.load_f32(y + 64 * i)))

    return run


def _loads(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.store_f32(out + 64 * i, f(x + 32 * i))

    return run


def _stores(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            f(out + 32 * i, s.load_f32(x + 64 * i))

    return run


def _integers(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.store_i32(out + 64 * i, f(s.load_i32(x + 64 * i), s.load_i32(y + 64 * i)))

    return run


def _shifts(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.store_i32(out + 64 * i, f(s.load_i32(x + 64 * i), s.get_i64(y)))

    return run


def _bytes(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.store_i32(out + 64 * i, f(x + 16 * i))

    return run


def _trees(f: Any) -> Run:
    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
        for i in range(n):
            s.set_f32(out + 4 * i, f(s.load_f32(x + 64 * i)))

    return run


def _fma(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        a, b, c = s.load_f32(x + 64 * i), s.load_f32(y + 64 * i), s.load_f32(z + 64 * i)
        s.store_f32(out + 64 * i, s.fma(a, b, c))


def _dot(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        a, b, c = s.load_i32(x + 64 * i), s.load_i32(y + 64 * i), s.load_i32(z + 64 * i)
        s.store_i32(out + 64 * i, s.dot(a, b, c))


def _words(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        a, b, c = s.load_i32(x + 64 * i), s.load_i32(y + 64 * i), s.load_i32(z + 64 * i)
        s.store_i32(out + 64 * i, s.dot_words(a, b, c))


def _either(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        a, b, c = s.load_i32(x + 64 * i), s.load_i32(y + 64 * i), s.load_i32(z + 64 * i)
        s.store_i32(out + 64 * i, s.either(a, b, c))


def _lookup(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        s.store_i32(out + 64 * i, _CODEBOOK(s.load_i32(x + 64 * i)))


def _isum(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        s.set_i64(out + 8 * i, s.isum(s.load_i32(x + 64 * i)))


def _activate(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        s.store_f32(out + 64 * i, vmath.activate(s.load_f32(x + 64 * i), s.get_i64(y)))


def _exp64(step: Ptr, tid: Int, nt: Int, x: Ptr, y: Ptr, z: Ptr, out: Ptr, n: Int) -> None:
    for i in range(n):
        d.store(out + 128 * i, d.exp(d.load(x + 128 * i)))


_OTHERS: dict[str, Run] = {
    "exp64": _exp64,
    "fma": _fma,
    "dot": _dot,
    "words": _words,
    "either": _either,
    "lookup": _lookup,
    "isum": _isum,
    "activate": _activate,
}
