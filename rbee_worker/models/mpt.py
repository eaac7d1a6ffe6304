"""MPT and Replit-code: ALiBi, layer norms without biases, q, k and v in one matrix.

model_type: mpt (MosaicML 2023). Projections may be clipped; then q and k may be normalised over all
heads, as in the model's own code (`qk_ln`; transformers omits this, see verify/corrected.py).
Learned positions, prefix attention and other variants are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights

NAMES = parts.Names(embed="transformer.wte", layers="transformer.blocks")
# Keys of attn_config -> the one value that is supported.
_ONLY = {
    "attn_type": "multihead_attention",
    "qk_gn": False,
    "prefix_lm": False,
    "alibi": True,
    "attn_uses_sequence_id": False,
    "rope": False,
    "sliding_window_size": -1,
}


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """MPT's own keys. `learned_pos_emb` matters only without ALiBi; intermediate_size is a key of
    GGUF files."""

    intermediate_size: int = 0  # 0 means expansion_ratio times the width
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    expansion_ratio: int = 4
    layer_norm_epsilon: float = 1e-5
    attn_config: dict[str, Any] | None = None
    logit_scale: float | str | None = None
    no_bias: bool = True
    norm_type: str = "low_precision_layernorm"
    learned_pos_emb: bool = True


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    inner = given.intermediate_size or given.expansion_ratio * given.hidden_size
    c = replace(given, intermediate_size=inner)
    parts.check(c)
    _refuse(c)
    mix = c.attn_config or {}
    most = float(mix.get("alibi_bias_max", 8))
    slopes = parts.alibi(w, c.num_attention_heads, max_bias=most)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        inside = at.sub("attn")

        def norm(part: str, heads: int) -> LayerNorm:
            return inside.layer_norm(
                f"{part}_ln", heads * c.width, c.layer_norm_epsilon, bias=False
            )

        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "norm_1"),
            attention=parts.attention(
                inside,
                c,
                layer=layer,
                out="out_proj",
                scale=mix.get("softmax_scale"),
                qk_norm=norm if mix.get("qk_ln") else None,
                fused="Wqkv",
                clip=mix.get("clip_qkv") or None,
                alibi_slopes=slopes,
            ),
            mlp_norm=_norm(at, c, "norm_2"),
            mlp=parts.plain_mlp(at.sub("ffn"), c, "up_proj", "down_proj"),
        )

    plans, final = plan_layers(c, None), _norm(w, c, "transformer.norm_f")
    return parts.decoder(w, c, plans, block, final, names=NAMES)


def _refuse(c: Config) -> None:
    mix = c.attn_config or {}
    wrong = [f"attn_config.{k}" for k, only in _ONLY.items() if mix.get(k, only) != only]
    wrong += [] if mix.get("alibi_bias_max", 8) > 0 else ["attn_config.alibi_bias_max"]
    wrong += [] if c.no_bias else ["no_bias"]
    wrong += [] if c.norm_type.endswith("layernorm") else ["norm_type"]
    wrong += ["logit_scale"] if c.logit_scale is not None else []
    wrong += ["hidden_act"] if c.hidden_act != "gelu" else []
    if wrong:
        raise UnsupportedModel(
            f"config: these keys of MPT have values that are not supported: {', '.join(wrong)}.",
            fix="use MPT-7B, MPT-30B, Replit-code or a fine-tune of them.",
        )


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.layer_norm_epsilon, bias=False)
