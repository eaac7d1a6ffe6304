"""Bamba: layers of Mamba 2, some with rotary attention in its place, and gated MLPs.

model_type: bamba (IBM, Princeton, CMU and UIUC 2024). Half of each head rotates. GGUF files have
Granite's architecture, without its multipliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.errors import UnsupportedModel
from rbee_worker.models import hybrid, parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, RECURRENT
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(hybrid.Config):
    """Bamba's own keys. GGUF files have layer_types; attn_rotary_emb is of published files."""

    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 262144
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5
    attn_layer_indices: list[int] | None = None
    attn_rotary_emb: int | None = None
    layer_types: list[str] | None = None
    position_embedding_type: str | None = None
    mlp_bias: bool = False

    @property
    def kinds(self) -> Sequence[str]:
        if self.layer_types is not None:
            return hybrid.named(self.layer_types, self.num_hidden_layers)
        full = self.attn_layer_indices or ()
        return [FULL if i in full else RECURRENT for i in range(self.num_hidden_layers)]

    @property
    def turns(self) -> bool:
        return self.position_embedding_type != "nope"


def build(c: Config, w: Weights) -> Decoder:
    """bamba. Raises CheckpointError, UnsupportedModel."""
    if c.attn_rotary_emb not in (None, c.rotary):
        raise UnsupportedModel(
            f"config: attn_rotary_emb is {c.attn_rotary_emb}, but {c.rotary} columns of a head "
            "rotate in transformers.",
            fix="check model_type: published models of this architecture rotate half of each head.",
        )
    return hybrid.build(
        c,
        w,
        hybrid.either(c, w),
        lambda at, layer: parts.gated_mlp(at.sub("feed_forward"), c, bias=c.mlp_bias),
    )
