"""Activation functions inside kernels; `ops.operands.Activation` names them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(x, KIND: tl.constexpr):
    """act(x), x float32, for a name of `Activation`; "none" is x."""
    if KIND == "none":
        y = x
    elif KIND == "silu":
        y = x * tl.sigmoid(x)
    elif KIND == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif KIND == "gelu_quick":
        y = x * tl.sigmoid(1.702 * x)
    elif KIND == "relu":
        y = tl.maximum(x, 0.0)
    elif KIND == "relu2":
        r = tl.maximum(x, 0.0)
        y = r * r
    elif KIND == "sigmoid":
        y = tl.sigmoid(x)
    else:
        tl.static_assert(KIND == "tanh", "an activation without a kernel")
        y = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    return y
