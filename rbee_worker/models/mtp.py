"""`MtpLayer`: the layer behind a model's last one that predicts one token further.

Multi-token prediction, DeepSeek-V3 (DeepSeek-AI 2024), section 2.2. Row i of the layer gets the
model's hidden state at position i, after its final norm, and the embedding of token i + 1. Both are
normalised, joined (the embedding first) and brought back to the model's width; then comes one block
as the model's own, with keys of its own; the head makes of it the logits of token i + 2. Embedding
and head are the model's.

With its own result in the place of the model's hidden state, after the norm before the head, the
layer goes on to token i + 3 and further (as in transformers and SGLang; vLLM passes on DeepSeek's
without that norm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models.block import Block
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops, Weight
from rbee_worker.ops.batch import Array, Batch

UNUSED = "predicts further tokens (MTP): read with --speculate mtp only"
SECOND = "predicts tokens beyond the next but one (MTP): only the first such layer is used"
SHARED = "the model's own serves the layer that predicts further tokens (MTP) too"


@dataclass(frozen=True)
class MtpLayer:
    """See above. embed, out: the model's own embedding and head."""

    ops: Ops
    embed: Weight
    token_norm: RMSNorm
    hidden_norm: RMSNorm
    join: Linear
    block: Block
    norm: RMSNorm
    out: Linear

    def hidden(self, rows: Array, batch: Batch) -> Array:
        """rows [N, dim]: hidden states of the batch's positions, of the model or of this layer;
        batch.tokens: the token after each of them. Returns normalised hidden states [N, dim]."""
        token = self.token_norm(self.ops.embed(self.embed, batch))
        x = self.join(self.ops.concat([token, self.hidden_norm(rows)]), batch)
        return self.norm(self.block(x, batch))

    def head(self, rows: Array) -> Array:
        """Rows [S, dim] of `hidden` -> logits float32 [S, vocab] of the tokens two positions
        on."""
        return self.ops.logits(rows, self.out.weight, self.out.bias)


# Builds a model's layer for further tokens once the rest of the model is read, from a cursor at the
# checkpoint's root, and the model's embedding and head. None: the checkpoint has none.
MakesLayer = Callable[[Weights, Weight, Linear], MtpLayer | None]


@dataclass(frozen=True)
class Names:
    """A checkpoint's names for the parts of such a layer, all below one cursor."""

    token_norm: str = "enorm"
    hidden_norm: str = "hnorm"
    join: str = "eh_proj"
    norm: str = "shared_head.norm"


def read_layer(
    w: Weights,
    block: Callable[[], Block],
    embed: Weight,
    out: Linear,
    *,
    dim: int,
    eps: float,
    names: Names | None = None,
    centre: float = 0.0,
) -> MtpLayer | None:
    """The layer whose parts are at the cursor `w`; None if they are not there. block: reads its
    block; centre: see `Weights.rms_norm`. Raises CheckpointError."""
    at = names or Names()
    if not w.has(f"{at.join}.weight"):
        return None
    return MtpLayer(
        ops=w.ops,
        embed=embed,
        token_norm=w.rms_norm(at.token_norm, dim, eps, centre=centre),
        hidden_norm=w.rms_norm(at.hidden_norm, dim, eps, centre=centre),
        join=w.linear(at.join, 2 * dim, dim),
        block=block(),
        norm=w.rms_norm(at.norm, dim, eps, centre=centre),
        out=out,
    )


def unread(first: int, count: int, *, used: bool) -> dict[str, str]:
    """Patterns of the tensors of layers `first` .. that are left unread -> why. used: the first of
    these layers is read."""
    if not used:
        return {rf"model\.layers\.{n}\..*": UNUSED for n in range(first, first + count)}
    more = {rf"model\.layers\.{n}\..*": SECOND for n in range(first + 1, first + count)}
    return {rf"model\.layers\.{first}\.(embed_tokens|shared_head\.head)\.weight": SHARED, **more}
