"""Vectors of 16 float64, for sums over a vocabulary: operations and an exponential function.

Like `simd.py` and `vmath.py`, they give the same bits on every processor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llvmlite import ir

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import F32x16, Int, Ptr, Void, op

f64 = np.float64
F64x16 = ir.VectorType(e.f64, e.LANES)
_I64 = ir.VectorType(e.i64, e.LANES)
if TYPE_CHECKING:
    Double: TypeAlias = Any
else:
    Double = e.f64


def _times_two_to(b: e.Builder, p: e.Value, t: e.Value) -> e.Value:
    """p * 2^n, where n is in the low bits of t; it is added to the exponent's bits."""
    n = b.shl(b.bitcast(t, _I64), ir.Constant(_I64, [52] * e.LANES))
    return b.bitcast(b.add(b.bitcast(p, _I64), n), F64x16)


get_f64 = op(Double, Ptr)(lambda b, p: e.load(b, p, e.f64, 8))
set_f64 = op(Void, Ptr, Double)(lambda b, p, x: e.store(b, p, x, 8))
load = op(F64x16, Ptr)(lambda b, p: e.load(b, p, F64x16, 8))
store = op(Void, Ptr, F64x16)(lambda b, p, v: e.store(b, p, v, 8))
fill = op(F64x16, Double)(lambda b, x: e.splat(b, x, F64x16))
widen = op(F64x16, F32x16)(lambda b, v: b.fpext(v, F64x16))
add = op(F64x16, F64x16, F64x16)(lambda b, x, y: b.fadd(x, y))
sub = op(F64x16, F64x16, F64x16)(lambda b, x, y: b.fsub(x, y))
mul = op(F64x16, F64x16, F64x16)(lambda b, x, y: b.fmul(x, y))
fma = op(F64x16, F64x16, F64x16, F64x16)(
    lambda b, x, y, z: e.call(b, "llvm.fma.v16f64", F64x16, (x, y, z))
)
minimum = op(F64x16, F64x16, F64x16)(e.minimum)  # y where either is nan
total = op(Double, F64x16)(lambda b, v: e.tree(b, v, lambda c, x, y: c.fadd(x, y)))
lane0 = op(Double, F64x16)(lambda b, v: b.extract_element(v, ir.Constant(e.i32, 0)))
where_less = op(F64x16, F64x16, F64x16, F64x16, F64x16)(  # x < y ? yes : no
    lambda b, x, y, yes, no: b.select(b.fcmp_ordered("<", x, y), yes, no)
)
_times_two = op(F64x16, F64x16, F64x16)(_times_two_to)
# the first n lanes keep their value, the others become 0
first_lanes = op(F64x16, F64x16, Int)(
    lambda b, v, n: b.select(
        b.icmp_signed("<", e.lane_numbers(), e.splat(b, b.trunc(n, e.i32), e.I32)),
        v,
        e.const(0.0, F64x16),
    )
)

LN2_HIGH = float.fromhex(
    "0x1.62e42fefa38p-1"
)  # ends in 11 zero bits: its product with any n here is exact
LN2_LOW = float.fromhex("0x1.ef35793c76730p-45")  # the rest of ln 2
_SHIFT = 1.5 * 2.0**52
_TERMS = tuple(1 / math.factorial(n) for n in range(13, -1, -1))


@device
def exp(x: Any) -> Any:
    """e^x for x <= 0 within 1 ulp; 0 below -707, which is near the smallest normal number.

    e^x = 2^n e^r with n = round(x / ln 2). Adding 1.5 * 2^52 does the rounding and leaves n in the
    low bits of the sum. e^r is Taylor's series to r^13 (|r| < 0.347, so the rest is below 5e-18).
    """
    t = fma(x, fill(f64(1.4426950408889634)), fill(f64(_SHIFT)))
    n = sub(t, fill(f64(_SHIFT)))
    r = fma(n, fill(f64(-LN2_HIGH)), x)
    r = fma(n, fill(f64(-LN2_LOW)), r)
    p = fill(f64(_TERMS[0]))
    p = fma(p, r, fill(f64(_TERMS[1])))
    p = fma(p, r, fill(f64(_TERMS[2])))
    p = fma(p, r, fill(f64(_TERMS[3])))
    p = fma(p, r, fill(f64(_TERMS[4])))
    p = fma(p, r, fill(f64(_TERMS[5])))
    p = fma(p, r, fill(f64(_TERMS[6])))
    p = fma(p, r, fill(f64(_TERMS[7])))
    p = fma(p, r, fill(f64(_TERMS[8])))
    p = fma(p, r, fill(f64(_TERMS[9])))
    p = fma(p, r, fill(f64(_TERMS[10])))
    p = fma(p, r, fill(f64(_TERMS[11])))
    p = fma(p, r, fill(f64(_TERMS[12])))
    p = fma(p, r, fill(f64(_TERMS[13])))
    return where_less(x, fill(f64(-707.0)), fill(f64(0.0)), _times_two(p, t))


@device
def weigh(z: Any, top: Any, scale: Any) -> Any:
    """e^((z - top) * scale) of 16 float32, in float64. top and scale hold one float64 in all lanes.

    top is the row's maximum. If it is +inf, tokens at +inf weigh 1 and all others 0.
    """
    x = minimum(sub(widen(z), top), fill(f64(0.0)))  # inf - inf becomes 0
    return exp(mul(x, scale))
