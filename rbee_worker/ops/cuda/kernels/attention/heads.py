"""Queries and keys of the packed projection: loaded, normalised and rotated in registers.

A column that rotates needs its partner, which may belong to the other part of the columns or to
another thread; it is loaded a second time (from the L1 cache) instead of being exchanged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from rbee_worker.ops.cuda.kernels.attention.fold import load_columns


class Packing(NamedTuple):
    """Where heads are in a packed row: the first column of each kind, and the step to the next
    group (queries of one group are adjacent)."""

    q: int
    k: int
    v: int
    q_step: int
    k_step: int
    v_step: int
    width: int

    @classmethod
    def of(cls, group: int, kv_heads: int, k_dim: int, v_dim: int, *, by_group: bool) -> Packing:
        """All queries, then all keys, then all values; by_group: q, k and v of each group."""
        queries = group * k_dim
        if by_group:
            step = queries + k_dim + v_dim
            return cls(0, queries, queries + k_dim, step, step, step, kv_heads * step)
        k = kv_heads * queries
        v = k + kv_heads * k_dim
        return cls(0, k, v, queries, k_dim, v_dim, v + kv_heads * v_dim)

    def arguments(self) -> dict[str, Any]:
        """Kernel arguments; queries begin at column 0."""
        return {
            "K_AT": self.k,
            "V_AT": self.v,
            "Q_STEP": self.q_step,
            "K_STEP": self.k_step,
            "V_STEP": self.v_step,
        }


def turn_and_norm(
    angles: Tensor | None,
    *,
    rope_dim: int,
    interleaved: bool,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
) -> dict[str, Any]:
    """Kernel arguments of the rotation and the norms; see `split_rope_write`."""
    assert (angles is None) == (rope_dim == 0)
    assert angles is None or angles.stride(1) == 1
    return {
        "angles": angles,
        "angles_row": 0 if angles is None else angles.stride(0),
        "q_norm": q_norm,
        "k_norm": k_norm,
        "eps": eps,
        "ROPE": rope_dim,
        "INTERLEAVED": interleaved,
        "Q_NORM": q_norm is not None,
        "K_NORM": k_norm is not None,
    }


@triton.jit
def turn_part(
    x, rows, valid, angles, turning, weight, factor,
    START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr,
    ROPE: tl.constexpr, INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Columns START .. of heads (x float32 [R, WIDTH], already loaded), normalised and rotated.

    angles: pointers to the rows' cosines, and which of them are valid (turning), both [R, 1] or
    [1, 1] for all rows; factor [R, 1]: the norm's.
    """
    column = START + tl.arange(0, WIDTH)[None, :]
    inside = column < DIM
    if NORM:
        x = x * factor * tl.load(weight + column, mask=inside, other=0.0)
    if START < ROPE:
        half: tl.constexpr = ROPE // 2
        turns = column < ROPE
        if INTERLEAVED:
            first = column % 2 == 0
            partner = tl.where(first, column + 1, column - 1)
            angle = column // 2
        else:
            first = column < half
            partner = tl.where(first, column + half, column - half)
            angle = tl.where(first, column, column - half)
        cos = tl.load(angles + angle, mask=turning & turns, other=1.0)
        sin = tl.load(angles + half + angle, mask=turning & turns, other=0.0)
        y = tl.load(rows + partner, mask=valid & turns, other=0.0).to(tl.float32)
        if NORM:
            y = y * factor * tl.load(weight + partner, mask=turns, other=0.0)
        x = x * cos + y * tl.where(first, -sin, sin)
    return x


@triton.jit
def load_heads(
    rows, valid, angles, turning, weight, eps,
    DIM: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
    ROPE: tl.constexpr, INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Heads of DIM columns at `rows` (pointers [R, 1]), normalised and rotated, in two parts of
    their own type (the second is 0 if D1 is); see `turn_part`."""
    x0 = load_columns(rows, valid, 0, D0, DIM).to(tl.float32)
    x1 = 0.0
    if D1 > 0:
        x1 = load_columns(rows, valid, D0, D1, DIM).to(tl.float32)
    factor = 1.0
    if NORM:
        squares = tl.sum(x0 * x0, 1)
        if D1 > 0:
            squares += tl.sum(x1 * x1, 1)
        factor = tl.rsqrt(squares / DIM + eps)[:, None]
    own = rows.dtype.element_ty
    x0 = turn_part(
        x0, rows, valid, angles, turning, weight, factor, 0, D0, DIM, ROPE, INTERLEAVED, NORM
    ).to(own)  # fmt: skip
    if D1 > 0:
        x1 = turn_part(
            x1, rows, valid, angles, turning, weight, factor, D0, D1, DIM, ROPE, INTERLEAVED, NORM
        ).to(own)  # fmt: skip
    return x0, x1
