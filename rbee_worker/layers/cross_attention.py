"""Attention over the rows of an encoder: keys and values are made once, queries read them."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class CrossAttention:
    """softmax(scale * q k^T) v, where k and v belong to a sequence's source (`CrossKV`).

    q: the map of a decoder's rows to queries [heads * width]; kv: the stacked maps of the source's
    rows to keys and values; where: this layer's entry in the state.
    """

    ops: Ops
    q: Linear
    kv: Linear
    out: Linear
    where: StateRef
    heads: int
    scale: float

    def read(self, source: Array, batch: Batch) -> None:
        """Keep the keys and values of source [N, dim], whose rows are those of `batch`."""
        k, v = self.kv.split(source, batch, precise=True)
        self.ops.keep(k, v, self.where, batch)

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        q = self.q(x, batch, precise=True)
        mixed = self.ops.attend(
            q,
            None,
            None,
            self.where,
            batch,
            heads=self.heads,
            scale=self.scale,
            causal=False,
        )
        return self.out(mixed, batch, precise=True)
