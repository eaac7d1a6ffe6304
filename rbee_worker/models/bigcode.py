"""StarCoder 1 and SantaCoder: learned positions, layer norms, one head of keys for all queries.

model_type: gpt_bigcode (Li et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.weights import Weights

NAMES = parts.Names(embed="transformer.wte", layers="transformer.h", positions="transformer.wpe")


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """BigCode's own keys."""

    intermediate_size: int = 0  # 0: four times the width
    layer_norm_epsilon: float = 1e-5
    multi_query: bool = True
    scale_attn_weights: bool = True


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    c = replace(
        given,
        intermediate_size=given.intermediate_size or 4 * given.hidden_size,
        num_key_value_heads=1 if given.multi_query else given.num_attention_heads,
    )
    parts.check(c)

    def block(at: Weights, layer: int) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "ln_1"),
            attention=parts.attention(
                at.sub("attn"),
                c,
                rope=None,
                bias=True,
                out="c_proj",
                out_bias=True,
                scale=None if c.scale_attn_weights else 1.0,
                fused="c_attn",
                groups=c.kv_heads,  # with a head of keys each, q, k, v of a head lie together
            ),
            mlp_norm=_norm(at, c, "ln_2"),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "c_fc", "c_proj", bias=True),
        )

    return parts.decoder(w, c, block, _norm(w, c, "transformer.ln_f"), ropes=[], names=NAMES)


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.layer_norm_epsilon)
