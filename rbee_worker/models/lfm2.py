"""LFM2: layers of a gated short convolution, some with attention in its place, and gated MLPs.

model_type: lfm2 (Liquid AI 2025), lfm2_moe (many small experts behind the first layers, chosen by
sigmoids with a bias). Norms of each head's q and k. An early config gives an inner width from which
the MLP's follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import FeedForward, Mixer, PreNorm
from rbee_worker.layers.moe import MoE
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.layers.short_conv import ShortConv
from rbee_worker.layers.state_space import CONV
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import check_kernel, conv
from rbee_worker.models.config import FULL, DecoderConfig, positive
from rbee_worker.models.experts import gated_experts, plain_routing
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.state.specs import Fixed

SHORT = "conv"
_MLP = ("w1", "w3", "w2")


@dataclass(frozen=True, kw_only=True)
class Hybrid(DecoderConfig):
    """The keys that both have."""

    num_key_value_heads: int = 8
    max_position_embeddings: int = 128_000
    rope_theta: float = 1e6
    tie_word_embeddings: bool = True
    norm_eps: float = 1e-5
    conv_bias: bool = False
    conv_L_cache: int = 3  # noqa: N815
    layer_types: list[str] | None = None

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {FULL: None, SHORT: None}

    @property
    def kinds(self) -> Sequence[str]:
        return [FULL] * self.num_hidden_layers if self.layer_types is None else self.layer_types

    @property
    def rotates(self) -> Sequence[object]:
        return [kind == FULL for kind in self.kinds]


@dataclass(frozen=True, kw_only=True)
class Config(Hybrid):
    """LFM2's own keys. full_attn_idxs: the layers with attention, in the absence of layer_types."""

    full_attn_idxs: list[int] | None = None
    block_multiple_of: int = 256
    block_ffn_dim_multiplier: float = 1.0
    block_auto_adjust_ff_dim: bool = True

    @property
    def kinds(self) -> Sequence[str]:
        if self.layer_types is not None or self.full_attn_idxs is None:
            return super().kinds
        full = self.full_attn_idxs
        return [FULL if n in full else SHORT for n in range(self.num_hidden_layers)]

    @property
    def inner(self) -> int:
        """Columns of an MLP: two thirds of intermediate_size, times a factor, rounded up to
        multiples. Raises CheckpointError."""
        if not self.block_auto_adjust_ff_dim:
            return self.intermediate_size
        positive("config", block_multiple_of=self.block_multiple_of)
        width = int(self.block_ffn_dim_multiplier * int(2 * self.intermediate_size / 3))
        return self.block_multiple_of * -(-width // self.block_multiple_of)


@dataclass(frozen=True, kw_only=True)
class Mixture(Hybrid):
    """LFM2-MoE's own keys. scoring_func is of GGUF files."""

    moe_intermediate_size: int = 1792
    num_dense_layers: int = 2
    num_experts: int = 32
    num_experts_per_tok: int = 4
    use_expert_bias: bool = True
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    scoring_func: str | None = None


def build(c: Config, w: Weights) -> Decoder:
    """lfm2. Raises CheckpointError, UnsupportedModel."""
    positive("config", inner=c.inner)
    return _build(c, w, lambda at, layer: parts.gated_mlp(at, c, inner=c.inner, names=_MLP))


def build_mixture(c: Mixture, w: Weights) -> Decoder:
    """lfm2_moe. Raises CheckpointError, UnsupportedModel."""
    if c.scoring_func not in (None, "sigmoid"):
        raise UnsupportedModel(
            f"config: scoring_func is {c.scoring_func!r}, which is not supported.",
            fix="convert the model again: models of this architecture score with sigmoids.",
        )
    if c.num_dense_layers < 0:
        raise CheckpointError(
            f"config: num_dense_layers is {c.num_dense_layers}.",
            fix="download the checkpoint's config again.",
        )
    count, inner = c.num_experts, c.moe_intermediate_size
    plain = plain_routing(count, c.num_experts_per_tok, normalise=c.norm_topk_prob)
    positive("config", moe_intermediate_size=inner)
    routing = replace(plain, score="sigmoid", scale=c.routed_scaling_factor, floor=1e-6)

    def feed_forward(at: Weights, layer: LayerPlan) -> FeedForward:
        if layer.number < c.num_dense_layers:
            return parts.gated_mlp(at, c, names=_MLP)
        bias = None
        if c.use_expert_bias:
            bias = w.ops.vector([at.packed("expert_bias", (count,))])
        return MoE(
            ops=w.ops,
            router=at.linear("gate", c.hidden_size, count),
            routing=routing,
            experts=gated_experts(at.sub("experts"), c, count, inner, _MLP),
            choice_bias=bias,
        )

    return _build(c, w, feed_forward)


def _build(
    c: Hybrid, w: Weights, feed_forward: Callable[[Weights, LayerPlan], FeedForward]
) -> Decoder:
    """feed_forward: called with the cursor at a layer's block."""
    parts.check(c)
    check_kernel(c.conv_L_cache)
    plans = plan_layers(c, parts.rope_of(w, c))
    dim = c.hidden_size

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        if layer.kind == SHORT:
            return _short(at.sub("conv"), c)
        mix = at.sub("self_attn")

        def norm(part: str, heads: int) -> RMSNorm:
            return mix.rms_norm(f"{part}_layernorm", c.width, c.norm_eps, heads=heads)

        return parts.attention(mix, c, layer=layer, out="out_proj", qk_norm=norm)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("operator_norm", dim, c.norm_eps),
            attention=mixer(at, layer),
            mlp_norm=at.rms_norm("ffn_norm", dim, c.norm_eps),
            mlp=feed_forward(at.sub("feed_forward"), layer),
        )

    norm = w.rms_norm("model.embedding_norm", dim, c.norm_eps)
    return parts.decoder(w, c, plans, block, norm)


def _short(w: Weights, c: Hybrid) -> ShortConv:
    dim, rows, bias = c.hidden_size, c.conv_L_cache, c.conv_bias
    where = w.states.add(Fixed(((CONV, (rows - 1, dim)),)))
    into = w.linear("in_proj", dim, 3 * dim, bias=bias)
    return ShortConv(
        ops=w.ops,
        into=replace(into, widths=(dim, dim, dim)),
        conv=conv(w, dim, rows, where, bias=bias, act=None, name="conv"),
        out=w.linear("out_proj", dim, dim, bias=bias),
    )
