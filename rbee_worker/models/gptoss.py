"""GPT-OSS: attention sinks, windows in every second layer, experts with a clamped SwiGLU.

model_type: gpt_oss (OpenAI 2025). Experts are stored as MXFP4: in safetensors as blocks and scales
(`checkpoint.scaled`) with alternating rows of gate and up, in GGUF files with separate gate and up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import MixedConfig, positive
from rbee_worker.models.experts import load_biases, load_experts, load_fused
from rbee_worker.models.layer_plan import LayerPlan, every, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing, Weight

# A config without a scaling means that of the published models.
YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
ALPHA = 1.702  # factor inside the gate's sigmoid, which makes it the activation `gelu_quick`


@dataclass(frozen=True, kw_only=True)
class Config(MixedConfig):
    """GPT-OSS's own keys. The published files give the number of chosen experts under two keys, and
    the context before YaRN's scaling."""

    num_key_value_heads: int = 8
    head_dim: int = 64
    max_position_embeddings: int = 131072
    rope_theta: float = 1.5e5
    rope_scaling: dict[str, Any] | None = field(default_factory=lambda: dict(YARN))
    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    sliding_window: int | None = 128
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    experts_per_token: int | None = None
    initial_context_length: int | None = None
    swiglu_alpha: float = ALPHA
    swiglu_limit: float = 7.0

    @property
    def pattern(self) -> Sequence[str]:
        return every(2, self.num_hidden_layers)


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
    plans = plan_layers(c, parts.rope_of(w, c))

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        mix = at.sub("self_attn")
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=parts.attention(
                mix,
                c,
                layer=layer,
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                sinks=w.ops.vector([mix.packed("sinks", (c.num_attention_heads,))]),
            ),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=_mixture(at.sub("mlp"), c),
        )

    norm = w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps)
    return parts.decoder(w, c, plans, block, norm)


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
    """All experts in one tensor: the rows of packed experts are outputs, those of floats inputs."""
    if w.has(f"{name}.weight"):
        return load_fused(w, f"{name}.weight", count, n_in, n_out, interleaved=interleaved)
    return load_fused(w, name, count, n_in, n_out, transposed=True, interleaved=interleaved)
