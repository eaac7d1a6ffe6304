"""Llama 1-3.3, Mistral, Yi: RMSNorm, rotary attention, SwiGLU, pre-norm residuals.

model_type: llama, mistral (llama with a sliding window).
References: Touvron et al. 2023 (Llama), Jiang et al. 2023 (Mistral 7B), Meta 2024 (Llama 3).
GGUF files carry Llama 3.1's frequency scaling as divisors in `rope_freqs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.attention import Attention
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import activation, positive
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops, RopeSpec
from rbee_worker.ops.batch import Batch
from rbee_worker.state.specs import PagedKV

if TYPE_CHECKING:
    from torch import Tensor

SKIP = {r".*\.rotary_emb\.inv_freq": "derived from the config"}
TIED = {r"lm_head\.weight": "tied to the embedding"}


@dataclass(frozen=True)
class Config:
    """The keys of config.json that decide a forward pass."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    tie_word_embeddings: bool = False


@dataclass(frozen=True)
class Block:
    """x + attention(norm x), then x + mlp(norm x)."""

    ops: Ops
    attention_norm: RMSNorm
    attention: Attention
    mlp_norm: RMSNorm
    mlp: GatedMLP

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        mixed = self.attention(self.attention_norm(x), batch)
        normed, x = self.mlp_norm.after_add(mixed, x)
        return self.ops.add(x, self.mlp(normed))


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    kv_heads = c.num_key_value_heads or c.num_attention_heads
    positive("config", heads=c.num_attention_heads, kv_heads=kv_heads, layers=c.num_hidden_layers)
    head_dim = c.head_dim or c.hidden_size // c.num_attention_heads
    positive("config", head_dim=head_dim, window=c.sliding_window or 1, vocab=c.vocab_size)
    if c.partial_rotary_factor != 1.0:
        raise UnsupportedModel(
            f"config: partial_rotary_factor is {c.partial_rotary_factor}, but llama and mistral "
            "rotate whole heads.",
            fix="check model_type: this config belongs to another architecture.",
        )
    has_divisors = w.has("model.rope_freqs")
    rope = rope_spec(
        head_dim,
        c.rope_theta,
        c.rope_scaling,
        c.max_position_embeddings,
        divisors=w.numbers("model.rope_freqs", head_dim // 2) if has_divisors else None,
    )
    embed = w.matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size)
    blocks = [
        _block(c, layer, rope, kv_heads, head_dim)
        for layer in w.layers("model.layers", c.num_hidden_layers)
    ]
    if c.tie_word_embeddings:
        head = Linear(w.ops, embed, None, (c.vocab_size,))
    else:
        head = w.linear("lm_head", c.hidden_size, c.vocab_size)
    return Decoder(
        ops=w.ops,
        embed=embed,
        blocks=blocks,
        norm=w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps),
        out=head,
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=c.max_position_embeddings,
        ropes=(rope,),
        skipped=w.finish(SKIP | (TIED if c.tie_word_embeddings else {})),
    )


def _block(c: Config, w: Weights, rope: RopeSpec, kv_heads: int, head_dim: int) -> Block:
    dim, heads = c.hidden_size, c.num_attention_heads
    attn, mlp = w.sub("self_attn"), w.sub("mlp")
    q_width, kv_width = heads * head_dim, kv_heads * head_dim
    return Block(
        ops=w.ops,
        attention_norm=w.rms_norm("input_layernorm", dim, c.rms_norm_eps),
        attention=Attention(
            ops=w.ops,
            qkv=attn.linear(
                ("q_proj", "k_proj", "v_proj"),
                dim,
                (q_width, kv_width, kv_width),
                bias=c.attention_bias,
            ),
            out=attn.linear("o_proj", q_width, dim, bias=c.attention_bias),
            where=w.states.add(PagedKV(kv_heads, head_dim, head_dim, c.sliding_window)),
            heads=heads,
            kv_heads=kv_heads,
            scale=head_dim**-0.5,
            rope=rope,
            window=c.sliding_window,
        ),
        mlp_norm=w.rms_norm("post_attention_layernorm", dim, c.rms_norm_eps),
        mlp=GatedMLP(
            ops=w.ops,
            gate_up=mlp.linear(
                ("gate_proj", "up_proj"), dim, (c.intermediate_size,) * 2, bias=c.mlp_bias
            ),
            down=mlp.linear("down_proj", c.intermediate_size, dim, bias=c.mlp_bias),
            act=activation(c.hidden_act),
        ),
    )
