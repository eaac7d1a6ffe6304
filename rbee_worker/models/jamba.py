"""Jamba: layers of Mamba, every few with attention in its place, and MLPs, some of them mixtures.

model_type: jamba (Lieber et al. 2024). dt, B and C have norms; attention has no positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import FeedForward, Mixer, PreNorm
from rbee_worker.layers.moe import MoE
from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import check_kernel
from rbee_worker.models.config import FULL, RECURRENT, positive
from rbee_worker.models.experts import gated_experts, plain_routing
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.selective_space import Sizes, rank, selective_space
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Jamba's own keys. GGUF files have layer_types, and show by their tensors which layers are
    mixtures: expert_layer_period is null then."""

    num_key_value_heads: int = 8
    max_position_embeddings: int = 262144
    layer_types: list[str] | None = None
    attn_layer_period: int = 8
    attn_layer_offset: int = 4
    num_experts: int = 16
    num_experts_per_tok: int = 2
    expert_layer_period: int | None = 2
    expert_layer_offset: int = 1
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_d_inner: int | None = None  # of GGUF files; None: mamba_expand times the width
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False

    @property
    def sizes(self) -> Sizes:
        """Of the recurrent layers. Raises CheckpointError."""
        return Sizes(
            dim=self.hidden_size,
            inner=self.mamba_d_inner or self.mamba_expand * self.hidden_size,
            states=self.mamba_d_state,
            rank=rank("mamba_dt_rank", self.mamba_dt_rank, self.hidden_size),
            kernel=self.mamba_d_conv,
        )

    @property
    def kinds(self) -> Sequence[str]:
        if self.layer_types is not None:
            return self.layer_types
        period, offset = self.attn_layer_period, self.attn_layer_offset
        positive("config", attn_layer_period=period)
        count = self.num_hidden_layers
        return [FULL if n % period == offset else RECURRENT for n in range(count)]

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {FULL: None, RECURRENT: None}

    @property
    def rotates(self) -> Sequence[object]:
        return [False] * self.num_hidden_layers

    @property
    def mixtures(self) -> Sequence[bool] | None:
        """For each layer, whether it has experts; None: its tensors show that."""
        period, offset = self.expert_layer_period, self.expert_layer_offset
        if period is None:
            return None
        positive("config", expert_layer_period=period)
        several = self.num_experts > 1
        return [several and n % period == offset for n in range(self.num_hidden_layers)]


def build(c: Config, w: Weights) -> Decoder:
    """jamba. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    _check(c)
    check_kernel(c.mamba_d_conv)
    mixtures, dim, eps = c.mixtures, c.hidden_size, c.rms_norm_eps

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        if layer.kind == FULL:
            return parts.attention(at.sub("self_attn"), c, layer=layer)
        mix, s = at.sub("mamba"), c.sizes
        norms = [
            mix.rms_norm(f"{part}_layernorm", width, eps)
            for part, width in (("dt", s.rank), ("b", s.states), ("c", s.states))
        ]
        return selective_space(
            mix,
            s,
            act=c.hidden_act,
            bias=c.mamba_proj_bias,
            conv_bias=c.mamba_conv_bias,
            norms=norms,
        )

    def feed_forward(at: Weights, layer: LayerPlan) -> FeedForward:
        several = at.has("router.weight") if mixtures is None else mixtures[layer.number]
        if not several:
            return parts.gated_mlp(at, c)
        routing = plain_routing(c.num_experts, c.num_experts_per_tok, normalise=False)
        experts = gated_experts(at.sub("experts"), c, c.num_experts, c.intermediate_size)
        return MoE(w.ops, at.linear("router", dim, c.num_experts), routing, experts)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", dim, eps),
            attention=mixer(at, layer),
            mlp_norm=at.rms_norm("pre_ff_layernorm", dim, eps),
            mlp=feed_forward(at.sub("feed_forward"), layer),
        )

    norm = w.rms_norm("model.final_layernorm", dim, eps)
    return parts.decoder(w, c, plan_layers(c, None), block, norm)


def _check(c: Config) -> None:
    """Refuse sizes that transformers refuses. Raises CheckpointError."""
    sizes = c.sizes
    positive("config", inner=sizes.inner, mamba_d_state=sizes.states, mamba_dt_rank=sizes.rank)
    pairs = {
        "attn_layer": (c.attn_layer_offset, c.attn_layer_period),
        "expert_layer": (c.expert_layer_offset, c.expert_layer_period),
    }
    for key, (offset, period) in pairs.items():
        if period is not None and not 0 <= offset < period:
            raise CheckpointError(
                f"config: {key}_offset is {offset}, {key}_period {period}.",
                fix="download the checkpoint's config again.",
            )
