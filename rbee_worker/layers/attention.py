"""Multi-head, grouped-query and multi-query attention over the paged cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Ops, RopeSpec
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class Attention:
    """softmax(scale * q k^T) v with rotated q and k, projected back to the hidden width.

    qkv: stacked maps to q [heads * head_dim], k and v [kv_heads * head_dim] each; where: this
    layer's entry in the state; rope None: no positions; window: a query sees its last `window`
    keys; q_norm, k_norm: applied to the projections before they rotate; q_after, k_after: after
    they have rotated; groups: q, k and v of each group of heads are adjacent, and qkv.widths are
    those of one group; clip: projections are cut to -clip .. clip; slopes: ALiBi, float32 [heads]
    (Press et al. 2022); sinks: an additional score per head without a value, float32 [heads];
    distances: what the distance of a key adds to its score, see `Ops.attend`; causal: False: a
    query sees later keys too.
    """

    ops: Ops
    qkv: Linear
    out: Linear
    where: StateRef
    heads: int
    kv_heads: int
    scale: float
    rope: RopeSpec | None
    window: int | None = None
    softcap: float | None = None
    q_norm: Callable[[Array], Array] | None = None
    k_norm: Callable[[Array], Array] | None = None
    q_after: Callable[[Array], Array] | None = None
    k_after: Callable[[Array], Array] | None = None
    groups: int = 1
    clip: float | None = None
    slopes: Array | None = None
    sinks: Array | None = None
    distances: Array | None = None
    causal: bool = True

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        projected = self.qkv(x, batch, precise=True)
        if self.clip is not None:
            projected = self.ops.clip(projected, self.clip)
        q, k, v = self.ops.split(projected, self.qkv.widths, heads=self.groups)
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if self.rope is not None:
            q = self.ops.rope(q, self.rope, batch, heads=self.heads)
            k = self.ops.rope(k, self.rope, batch, heads=self.kv_heads)
        if self.q_after is not None:
            q = self.q_after(q)
        if self.k_after is not None:
            k = self.k_after(k)
        mixed = self.ops.attend(
            q,
            k,
            v,
            self.where,
            batch,
            heads=self.heads,
            scale=self.scale,
            window=self.window,
            softcap=self.softcap,
            slopes=self.slopes,
            sinks=self.sinks,
            distances=self.distances,
            causal=self.causal,
        )
        return self.out(mixed, batch, precise=True)
