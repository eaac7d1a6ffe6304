"""exp, tanh, erf and activations on vectors, as polynomials: the same bits on every processor.

Cody-Waite reduction and minimax polynomials in the form of Cephes (Moshier 1989), evaluated with
explicit fma. Accuracy against float64 is asserted by tests/ops/cpu/test_simd.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device

f32 = np.float32
LOG2_E = f32(1.44269504088896341)
LEAST_WEIGHT = f32(-87.0)  # the smallest normal number is e^-87.34


@device
def exp(x: Any) -> Any:
    """e^x within 2 ulp; 0 below -103.97, inf above 88.72, nan stays nan.

    e^x = 2^n e^r with n = round(x / ln 2); 2^n in two factors so that subnormals come out right.
    """
    y = s.minimum(s.maximum(x, s.fill(f32(-104.0))), s.fill(f32(89.0)))
    n = s.nearest(s.mul(y, s.fill(LOG2_E)))
    i = s.to_i32(n)
    low = s.sar(i, 1)
    high = s.isub(i, low)
    return s.where_nan(x, x, s.mul(s.mul(_exp_rest(y, n), _power(low)), _power(high)))


@device
def exp_weight(x: Any) -> Any:
    """e^x for x <= 0 within 2 ulp; 0 below -87, nan stays nan.

    Results are never subnormal: such a weight is negligible beside the largest one, which is 1, and
    on many processors arithmetic with it takes a hundred times as long.
    """
    y = s.maximum(x, s.fill(LEAST_WEIGHT))
    n = s.nearest(s.mul(y, s.fill(LOG2_E)))
    w = s.mul(_exp_rest(y, n), _power(s.to_i32(n)))
    return s.where_nan(x, x, s.where_less(x, s.fill(LEAST_WEIGHT), s.zeros(), w))


@device
def one_minus_exp(x: Any) -> Any:
    """1 - e^x for x <= 0 within 4 ulp: Taylor's series above -0.5; nan stays nan."""
    p = s.fill(f32(-2.4801587e-5))  # -1 / 8!
    p = s.fma(p, x, s.fill(f32(-1.9841270e-4)))
    p = s.fma(p, x, s.fill(f32(-1.3888889e-3)))
    p = s.fma(p, x, s.fill(f32(-8.3333333e-3)))
    p = s.fma(p, x, s.fill(f32(-4.1666667e-2)))
    p = s.fma(p, x, s.fill(f32(-0.16666667)))
    p = s.fma(p, x, s.fill(f32(-0.5)))
    p = s.fma(p, x, s.fill(f32(-1.0)))
    far = s.sub(s.fill(f32(1.0)), exp_weight(x))
    return s.where_less(x, s.fill(f32(-0.5)), far, s.mul(p, x))


@device
def _exp_rest(x: Any, n: Any) -> Any:
    """e^(x - n ln 2)"""
    r = s.fma(n, s.fill(f32(-0.693359375)), x)
    r = s.fma(n, s.fill(f32(2.12194440e-4)), r)
    p = s.fill(f32(1.9875691500e-4))
    p = s.fma(p, r, s.fill(f32(1.3981999507e-3)))
    p = s.fma(p, r, s.fill(f32(8.3334519073e-3)))
    p = s.fma(p, r, s.fill(f32(4.1665795894e-2)))
    p = s.fma(p, r, s.fill(f32(1.6666665459e-1)))
    p = s.fma(p, r, s.fill(f32(5.0000001201e-1)))
    return s.add(s.fma(p, s.mul(r, r), r), s.fill(f32(1.0)))


@device
def _power(i: Any) -> Any:
    """2^i for -126 <= i <= 127"""
    return s.as_f32(s.shl(s.iadd(i, s.fill_i32(127)), 23))


@device
def tanh(x: Any) -> Any:
    """Hyperbolic tangent within 4 ulp: a polynomial below 0.625, else 1 - 2 / (e^2|x| + 1)."""
    a = s.magnitude(x)
    z = s.mul(x, x)
    p = s.fill(f32(-5.70498872745e-3))
    p = s.fma(p, z, s.fill(f32(2.06390887954e-2)))
    p = s.fma(p, z, s.fill(f32(-5.37397155531e-2)))
    p = s.fma(p, z, s.fill(f32(1.33314422036e-1)))
    p = s.fma(p, z, s.fill(f32(-3.33332819422e-1)))
    near = s.fma(s.mul(p, z), x, x)
    one = s.fill(f32(1.0))
    far = s.sub(one, s.div(s.fill(f32(2.0)), s.add(exp(s.add(a, a)), one)))
    return s.where_less(a, s.fill(f32(0.625)), near, s.with_sign(far, x))


@device
def erf(x: Any) -> Any:
    """Error function, absolute error < 4e-7: Taylor's series below 1, else 1 - e^-x^2 Q(1/(1+px)).

    Abramowitz and Stegun 7.1.26 gives Q; 7.6.1 the series (here to x^17).
    """
    a = s.magnitude(x)
    z = s.mul(x, x)
    p = s.fill(f32(1.6447298e-6))
    p = s.fma(p, z, s.fill(f32(-1.4925650e-5)))
    p = s.fma(p, z, s.fill(f32(1.2055333e-4)))
    p = s.fma(p, z, s.fill(f32(-8.5483270e-4)))
    p = s.fma(p, z, s.fill(f32(5.2239776e-3)))
    p = s.fma(p, z, s.fill(f32(-2.6866171e-2)))
    p = s.fma(p, z, s.fill(f32(1.1283792e-1)))
    p = s.fma(p, z, s.fill(f32(-3.7612638e-1)))
    p = s.fma(p, z, s.fill(f32(1.1283792)))
    near = s.mul(p, x)
    one = s.fill(f32(1.0))
    t = s.div(one, s.fma(a, s.fill(f32(0.3275911)), one))
    q = s.fill(f32(1.061405429))
    q = s.fma(q, t, s.fill(f32(-1.453152027)))
    q = s.fma(q, t, s.fill(f32(1.421413741)))
    q = s.fma(q, t, s.fill(f32(-0.284496736)))
    q = s.fma(q, t, s.fill(f32(0.254829592)))
    far = s.sub(one, s.mul(s.mul(q, t), exp(s.sub(s.zeros(), z))))
    return s.where_less(a, one, near, s.with_sign(far, x))


@device
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)"""
    one = s.fill(f32(1.0))
    return s.div(one, s.add(one, exp(s.sub(s.zeros(), x))))


@device
def softplus(x: Any) -> Any:
    """log(1 + e^x) within 4 ulp, 0 below -87; nan stays nan.

    max(x, 0) + log(1 + e), e = e^-|x|, and log(1 + e) = 2 atanh(u) of u = e / (2 + e), at most 1/3.
    """
    e = exp_weight(s.sub(s.zeros(), s.magnitude(x)))
    u = s.div(e, s.add(s.fill(f32(2.0)), e))
    z = s.mul(u, u)
    p = s.fill(f32(0.13333333))  # the series of 2 atanh(u) / u, to u^14
    p = s.fma(p, z, s.fill(f32(0.15384616)))
    p = s.fma(p, z, s.fill(f32(0.18181819)))
    p = s.fma(p, z, s.fill(f32(0.22222222)))
    p = s.fma(p, z, s.fill(f32(0.28571429)))
    p = s.fma(p, z, s.fill(f32(0.4)))
    p = s.fma(p, z, s.fill(f32(0.66666669)))
    p = s.fma(p, z, s.fill(f32(2.0)))
    return s.fma(p, u, s.maximum(x, s.zeros()))


SILU, GELU, GELU_TANH, GELU_QUICK, RELU, RELU2, SIGMOID, TANH = range(8)  # each `Activation`


@device
def activate(x: Any, kind: int) -> Any:
    """The activation numbered `kind`, of `rbee_worker.ops.Activation`."""
    if kind == SILU:
        return s.mul(x, sigmoid(x))
    if kind == GELU:
        bend = erf(s.mul(x, s.fill(f32(0.70710678118))))
        return s.mul(s.mul(x, s.fill(f32(0.5))), s.add(s.fill(f32(1.0)), bend))
    if kind == GELU_TANH:
        cubic = s.fma(s.mul(s.mul(x, x), x), s.fill(f32(0.044715)), x)
        bend = tanh(s.mul(cubic, s.fill(f32(0.7978845608))))
        return s.mul(s.mul(x, s.fill(f32(0.5))), s.add(s.fill(f32(1.0)), bend))
    if kind == GELU_QUICK:
        return s.mul(x, sigmoid(s.mul(x, s.fill(f32(1.702)))))
    if kind == SIGMOID:
        return sigmoid(x)
    if kind == TANH:
        return tanh(x)
    y = s.maximum(x, s.zeros())
    return y if kind == RELU else s.mul(y, y)
