"""GPT-OSS: sinks in attention, every second layer with a window, experts with a clamped SwiGLU.

model_type: gpt_oss (OpenAI 2025). Experts are stored as MXFP4, in safetensors as blocks and scales
(`checkpoint.scaled`), rows of gate and up alternating; GGUF files have gate and up apart. Yarn's
ramp is not rounded to whole columns, whether or not a file says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig, positive
from rbee_worker.models.experts import load_biases, load_experts, load_fused
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing, Weight

ALPHA = 1.702  # of the sigmoid in the gate: the activation `gelu_quick`


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """GPT-OSS's own keys. The published files say the number of chosen experts twice, and what
    the context was before yarn."""

    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    num_local_experts: int
    num_experts_per_tok: int
    experts_per_token: int | None = None
    initial_context_length: int | None = None
    swiglu_alpha: float = ALPHA
    swiglu_limit: float = 7.0


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    chosen, count = c.num_experts_per_tok, c.num_local_experts
    positive("config", num_experts_per_tok=chosen, num_local_experts=count, limit=c.swiglu_limit)
    if chosen > count or c.experts_per_token not in (None, chosen):
        raise CheckpointError(
            f"config: {chosen} of {count} experts, experts_per_token {c.experts_per_token}.",
            fix="download the checkpoint's config again.",
        )
    if c.swiglu_alpha != ALPHA:
        raise UnsupportedModel(
            f"config: swiglu_alpha is {c.swiglu_alpha}, only {ALPHA} is supported.",
            fix="use a published checkpoint of this architecture.",
        )
    scaling = c.rope_scaling and {"truncate": False, **c.rope_scaling}
    rope = rope_spec(c.width, c.rope_theta, scaling, c.max_position_embeddings)
    types = c.layer_types or parts.every(2, c.num_hidden_layers)
    window = parts.windows(types, c.num_hidden_layers, c.sliding_window)

    def block(at: Weights, layer: int) -> PreNorm:
        mix = at.sub("self_attn")
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=parts.attention(
                mix,
                c,
                rope=rope,
                window=window[layer],
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                sinks=w.ops.vector([mix.packed("sinks", (c.num_attention_heads,))]),
            ),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=_mixture(at.sub("mlp"), c),
        )

    norm = w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps)
    return parts.decoder(w, c, block, norm, ropes=[rope])


def _mixture(w: Weights, c: Config) -> MoE:
    dim, inner, count = c.hidden_size, c.intermediate_size, c.num_local_experts
    at, halves = w.sub("experts"), ("gate_proj", "up_proj")
    if at.has("gate_proj.weight"):
        up = load_experts(at, halves, count, dim, inner)
        up_bias = load_biases(at, [f"{name}.bias" for name in halves], count, inner)
        down_bias = "down_proj.bias"
    else:
        up = _fused(at, "gate_up_proj", count, dim, 2 * inner, interleaved=True)
        up_bias = load_biases(at, ["gate_up_proj_bias"], count, 2 * inner, interleaved=True)
        down_bias = "down_proj_bias"
    return MoE(
        ops=w.ops,
        router=w.linear("router", dim, count, bias=True),
        routing=Routing(c.num_experts_per_tok, normalise=True),
        experts=Experts(
            ops=w.ops,
            up=up,
            down=_fused(at, "down_proj", count, inner, dim),
            act="gelu_quick",
            up_bias=up_bias,
            down_bias=load_biases(at, [down_bias], count, dim),
            limit=c.swiglu_limit,
        ),
    )


def _fused(
    w: Weights, name: str, count: int, n_in: int, n_out: int, *, interleaved: bool = False
) -> Weight:
    """Packed experts have outputs as rows, those in floats have inputs."""
    if w.has(f"{name}.weight"):
        return load_fused(w, f"{name}.weight", count, n_in, n_out, interleaved=interleaved)
    return load_fused(w, name, count, n_in, n_out, transposed=True, interleaved=interleaved)
