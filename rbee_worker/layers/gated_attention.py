"""Attention whose result is gated by a projection of its input (Qwen 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Ops, RopeSpec
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class GatedAttention:
    """out(attention(x) * sigmoid(gate)), with norms of each head's q and k.

    into: stacked maps to q and gate, head by head [heads * 2 * head_dim], to k and to v. Others:
    see `Attention`.
    """

    ops: Ops
    into: Linear
    out: Linear
    where: StateRef
    heads: int
    kv_heads: int
    width: int
    rope: RopeSpec | None
    q_norm: Callable[[Array], Array]
    k_norm: Callable[[Array], Array]

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        both, k, v = self.into.split(x, batch, precise=True)
        q, gate = self.ops.split(both, (self.width, self.width), heads=self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q = self.ops.rope(q, self.rope, batch, heads=self.heads)
            k = self.ops.rope(k, self.rope, batch, heads=self.kv_heads)
        scale = self.width**-0.5
        mixed = self.ops.attend(q, k, v, self.where, batch, heads=self.heads, scale=scale)
        gated = self.ops.multiply(mixed, self.ops.act(gate, "sigmoid"))
        return self.out(gated, batch, precise=True)
