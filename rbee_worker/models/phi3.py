"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: Llama with stacked projections and LongRoPE.

model_type: phi3 (Abdin et al. 2024). q, k and v are one matrix, gate and up another; only a part of
each head may rotate. GGUF files have the two sets of LongRoPE's divisors as tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import WindowConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(WindowConfig):
    """Phi-3's own keys; `rope_magnitude` is a GGUF file's LongRoPE magnitude."""

    max_position_embeddings: int = 4096
    original_max_position_embeddings: int | None = 4096
    rms_norm_eps: float = 1e-5
    rope_magnitude: float | None = None


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    rope = parts.long_rope(
        w, c, original=c.original_max_position_embeddings, magnitude=c.rope_magnitude
    )
    plans = plan_layers(c, rope)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=parts.attention(at.sub("self_attn"), c, layer=layer),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=parts.gated_mlp(at.sub("mlp"), c),
        )

    norm = w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps)
    return parts.decoder(w, c, plans, block, norm)
