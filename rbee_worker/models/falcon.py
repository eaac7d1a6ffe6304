"""Falcon: one matrix for q, k, v, group by group; attention and MLP side by side, mostly.

model_type: falcon, RefinedWeb, RefinedWebModel (Almazrouei et al. 2023). 7B has one head of keys,
11B, 40B and 180B (new_decoder_architecture) one for each group, with one or two norms; the rw
models have ALiBi, biases and halves one after the other. GGUF files hold q, k, v one after the
other (`qkv_grouped` false). Slopes are float32 here; transformers rounds the product of slope and
position to bfloat16, which differs where the number of heads is no power of two up to 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import Parallel, PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.weights import Weights

NAMES = parts.Names(embed="transformer.word_embeddings", layers="transformer.h")


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Falcon's own keys."""

    intermediate_size: int = 0  # 0: four times the width
    layer_norm_epsilon: float = 1e-5
    alibi: bool = False
    new_decoder_architecture: bool = False
    num_ln_in_parallel_attn: int | None = None
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    qkv_grouped: bool = True


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    c = _completed(given)
    parts.check(c)
    new, parallel = c.new_decoder_architecture, c.parallel_attn
    if new and not parallel:
        raise UnsupportedModel(
            "config: new_decoder_architecture without parallel_attn.", fix="check the config."
        )
    norms = c.num_ln_in_parallel_attn
    found = w.has(f"{NAMES.layers}.0.ln_attn.weight")
    two_norms = new and (found if norms is None else norms == 2)
    rope = None if c.alibi else parts.rope_of(w, c)
    # Slopes are scaled as the scores are.
    heads = c.num_attention_heads
    slopes = parts.alibi(w, heads, scale=c.width**-0.5) if c.alibi else None

    def block(at: Weights, layer: int) -> PreNorm | Parallel:
        attention = parts.attention(
            at.sub("self_attention"),
            c,
            rope=rope,
            bias=c.bias,
            out="dense",
            out_bias=c.bias,
            fused="query_key_value",
            groups=c.kv_heads if c.qkv_grouped else 1,
            alibi_slopes=slopes,
        )
        mlp = parts.plain_mlp(at.sub("mlp"), c, "dense_h_to_4h", "dense_4h_to_h", bias=c.bias)
        if two_norms:
            # llama.cpp's files call the MLP's norm the first one.
            second = "ln_mlp" if at.has("ln_mlp.weight") else "input_layernorm"
            return Parallel(w.ops, _norm(at, c, "ln_attn"), attention, mlp, _norm(at, c, second))
        first = _norm(at, c, "input_layernorm")
        if parallel:
            return Parallel(w.ops, first, attention, mlp)
        return PreNorm(w.ops, first, attention, _norm(at, c, "post_attention_layernorm"), mlp)

    norm = _norm(w, c, "transformer.ln_f")
    return parts.decoder(w, c, block, norm, ropes=[rope] if rope else [], names=NAMES)


def _completed(c: Config) -> Config:
    """Heads of keys and the MLP's width as the older and newer configs mean them."""
    kv = c.kv_heads if c.new_decoder_architecture else c.num_attention_heads
    if c.multi_query and not c.new_decoder_architecture:
        kv = 1
    inner = c.intermediate_size or 4 * c.hidden_size
    return replace(c, num_key_value_heads=kv, intermediate_size=inner)


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.layer_norm_epsilon)
