"""StarCoder 1 and SantaCoder: learned positions, layer norms, one KV head for all query heads.

model_type: gpt_bigcode (Li et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights

NAMES = parts.Names(embed="transformer.wte", layers="transformer.h", positions="transformer.wpe")


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """BigCode's own keys."""

    intermediate_size: int = 0  # 0 means four times hidden_size
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    layer_norm_epsilon: float = 1e-5
    multi_query: bool = True
    scale_attn_weights: bool = True

    @property
    def kv_heads(self) -> int:
        return 1 if self.multi_query else self.num_attention_heads


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    c = replace(given, intermediate_size=given.intermediate_size or 4 * given.hidden_size)
    parts.check(c)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "ln_1"),
            attention=parts.attention(
                at.sub("attn"),
                c,
                layer=layer,
                bias=True,
                out="c_proj",
                out_bias=True,
                scale=None if c.scale_attn_weights else 1.0,
                fused="c_attn",
                groups=c.kv_heads,  # without multi-query, q, k and v of a head are adjacent
            ),
            mlp_norm=_norm(at, c, "ln_2"),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "c_fc", "c_proj", bias=True),
        )

    plans, norm = plan_layers(c, None), _norm(w, c, "transformer.ln_f")
    return parts.decoder(w, c, plans, block, norm, names=NAMES)


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.layer_norm_epsilon)
