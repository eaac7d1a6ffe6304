"""Latent attention (MLA; DeepSeek-V2, 2024) in its absorbed form.

All heads share one latent vector and one rotated key per token. The matrix that would expand the
latent to keys is applied to the queries instead, and the one that would expand it to values to the
result. So the cache holds only `latent + rope` values per token, and attention has a single KV
head, whose values are the first columns of its keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.ops import Ops, RopeSpec, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class LowRank:
    """up(norm(down x)): a linear map of low rank."""

    down: Linear
    norm: RMSNorm
    up: Linear

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, in] -> [N, out]"""
        return self.up(self.norm(self.down(x, batch)), batch)


@dataclass(frozen=True)
class LatentAttention:
    """Attention over latents.

    q: map to the heads' queries, each with `plain` columns without positions, then rope.dim columns
    that rotate; down: map to the latent and the rotated key (its two widths); into: one [latent,
    plain] matrix per head, stacked; out_of: one [value, latent] matrix per head, stacked.
    """

    ops: Ops
    q: Callable[[Array, Batch], Array]
    down: Linear
    norm: RMSNorm
    into: Weight
    out_of: Weight
    out: Linear
    where: StateRef
    scale: float
    rope: RopeSpec

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        ops, heads = self.ops, self.into.count
        plain, turning = ops.split(self.q(x, batch), (self.into.cols, self.rope.dim), heads=heads)
        turned = ops.rope(turning, self.rope, batch, heads=heads)
        query = ops.concat((ops.heads_linear(plain, self.into), turned), heads=heads)
        latent, shared = self.down.split(x, batch, precise=True)
        latent = self.norm(latent)
        key = ops.concat((latent, ops.rope(shared, self.rope, batch, heads=1)))
        mixed = ops.attend(query, key, latent, self.where, batch, heads=heads, scale=self.scale)
        return self.out(ops.heads_linear(mixed, self.out_of), batch, precise=True)
