"""Arcee's AFM: Llama with a squared ReLU and no gate.

model_type: arcee (Arcee AI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Arcee's own keys."""

    hidden_act: str = "relu2"
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    return prenorm.build(
        c,
        w,
        lambda at, layer: parts.plain_mlp(
            at.sub("mlp"), c, "up_proj", "down_proj", bias=c.mlp_bias
        ),
        bias=c.attention_bias,
        out_bias=c.attention_bias,
    )
