"""Falcon: q, k and v in one matrix, group by group; attention and MLP mostly in parallel.

model_type: falcon, RefinedWeb, RefinedWebModel (Almazrouei et al. 2023). 7B has one KV head; 11B,
40B and 180B (new_decoder_architecture) have one per group, and one or two norms; the rw models have
ALiBi, biases, and attention and MLP in sequence. GGUF files hold q, k and v in sequence
(`qkv_grouped` false). ALiBi slopes are float32 here; transformers rounds the product of slope and
position to bfloat16, which differs unless the number of heads is a power of two up to 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import Parallel, PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights

NAMES = parts.Names(embed="transformer.word_embeddings", layers="transformer.h")


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Falcon's own keys, and `qkv_grouped`, which tells GGUF's layout from Hugging Face's."""

    intermediate_size: int = 0  # 0 means four times hidden_size
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    layer_norm_epsilon: float = 1e-5
    alibi: bool | None = False
    new_decoder_architecture: bool | None = False
    num_ln_in_parallel_attn: int | None = None
    multi_query: bool | None = True
    parallel_attn: bool | None = True
    bias: bool | None = False
    qkv_grouped: bool = True

    @property
    def kv_heads(self) -> int:
        if self.new_decoder_architecture:
            return super().kv_heads
        return 1 if self.multi_query else self.num_attention_heads


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    c = replace(given, intermediate_size=given.intermediate_size or 4 * given.hidden_size)
    parts.check(c)
    new, parallel, bias = c.new_decoder_architecture, c.parallel_attn, bool(c.bias)
    if new and not parallel:
        raise UnsupportedModel(
            "config: new_decoder_architecture without parallel_attn.", fix="check the config."
        )
    norms = c.num_ln_in_parallel_attn
    found = w.has(f"{NAMES.layers}.0.ln_attn.weight")
    two_norms = new and (found if norms is None else norms == 2)
    plans = plan_layers(c, None if c.alibi else parts.rope_of(w, c))
    # The slopes are scaled like the scores.
    heads = c.num_attention_heads
    slopes = parts.alibi(w, heads, scale=c.width**-0.5) if c.alibi else None

    def block(at: Weights, layer: LayerPlan) -> PreNorm | Parallel:
        attention = parts.attention(
            at.sub("self_attention"),
            c,
            layer=layer,
            bias=bias,
            out="dense",
            out_bias=bias,
            fused="query_key_value",
            groups=c.kv_heads if c.qkv_grouped else 1,
            alibi_slopes=slopes,
        )
        mlp = parts.plain_mlp(at.sub("mlp"), c, "dense_h_to_4h", "dense_4h_to_h", bias=bias)
        if two_norms:
            # GGUF files give the MLP's norm the name of the first norm.
            second = "ln_mlp" if at.has("ln_mlp.weight") else "input_layernorm"
            return Parallel(w.ops, _norm(at, c, "ln_attn"), attention, mlp, _norm(at, c, second))
        first = _norm(at, c, "input_layernorm")
        if parallel:
            return Parallel(w.ops, first, attention, mlp)
        return PreNorm(w.ops, first, attention, _norm(at, c, "post_attention_layernorm"), mlp)

    norm = _norm(w, c, "transformer.ln_f")
    return parts.decoder(w, c, plans, block, norm, names=NAMES)


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.layer_norm_epsilon)
