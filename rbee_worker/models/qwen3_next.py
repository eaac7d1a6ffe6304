"""Qwen3-Next: layers of a gated delta rule, every fourth with gated attention, and mixtures.

model_type: qwen3_next (Qwen 2025). Norms store offsets from 1, but those of the delta rule's
result. Projections have the rows of each group of heads side by side; GGUF files have those of all
groups one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import Mixer, PreNorm
from rbee_worker.layers.gated_attention import GatedAttention
from rbee_worker.layers.gated_delta import DeltaNet
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.state_space import CONV, SCAN
from rbee_worker.models import parts, qwen_experts
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import check_kernel, conv
from rbee_worker.models.config import FULL, RECURRENT, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.mtp import SECOND, UNUSED, MtpLayer, Names, read_layer, unread
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Weight
from rbee_worker.ops.cells import scan_shape
from rbee_worker.state.specs import Fixed, PagedKV


@dataclass(frozen=True, kw_only=True)
class Config(qwen_experts.Config):
    """Qwen3-Next's own keys. linear_inner_size is of GGUF files, which have the columns of all
    heads instead of those of each."""

    num_key_value_heads: int = 2
    head_dim: int = 256
    partial_rotary_factor: float = 0.25
    max_position_embeddings: int = 32768
    attention_bias: bool = False
    layer_types: list[str] | None = None
    full_attention_interval: int = 4
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_inner_size: int | None = None
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    num_experts: int = 512
    num_experts_per_tok: int = 10
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    norm_topk_prob: bool = True
    num_nextn_predict_layers: int = 0  # of GGUF files: the layers behind the last one

    @property
    def inner(self) -> int:
        """Columns of the delta rule."""
        if self.linear_inner_size is not None:
            return self.linear_inner_size
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def kinds(self) -> Sequence[str]:
        if self.layer_types is not None:
            return self.layer_types
        every, count = self.full_attention_interval, self.num_hidden_layers
        positive("config", full_attention_interval=every)
        return [RECURRENT if (n + 1) % every else FULL for n in range(count)]

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {FULL: None, RECURRENT: None}

    @property
    def rotates(self) -> Sequence[object]:
        return [kind == FULL for kind in self.kinds]


def build(c: Config, w: Weights) -> Decoder:
    """qwen3_next. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    _check(c)
    rope, dim, eps = parts.rope_of(w, c), c.hidden_size, c.rms_norm_eps
    plans = plan_layers(c, rope)
    feed_forward = qwen_experts.feed_forward(c, c.shared_expert_intermediate_size)

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        if layer.kind == RECURRENT:
            return _delta(at.sub("linear_attn"), c)
        return _attention(at.sub("self_attn"), c, layer)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", dim, eps, centre=1.0),
            attention=mixer(at, layer),
            mlp_norm=at.rms_norm("post_attention_layernorm", dim, eps, centre=1.0),
            mlp=feed_forward(at, layer),
        )

    further = c.num_hidden_layers

    def mtp(at: Weights, embed: Weight, out: Linear) -> MtpLayer | None:
        named = _NAMES if at.has("mtp.fc.weight") else None  # else as in GGUF files
        top = at.unadapted("mtp" if named else f"model.layers.{further}")
        layer = top.sub("layers.0") if named else top
        plan = LayerPlan(further, FULL, None, None, rope)
        return read_layer(
            top, lambda: block(layer, plan), embed, out, dim=dim, eps=eps, names=named, centre=1.0
        )

    norm = w.rms_norm("model.norm", dim, eps, centre=1.0)
    skip = unread(further, c.num_nextn_predict_layers, used=w.ops.mtp)
    skip |= {r"mtp\.layers\.[1-9].*": SECOND} if w.ops.mtp else {r"mtp\..*": UNUSED}
    return parts.decoder(w, c, plans, block, norm, skip=skip, mtp=mtp)


_NAMES = Names("pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "norm")


def _check(c: Config) -> None:
    heads, groups = c.linear_num_value_heads, c.linear_num_key_heads
    positive("config", linear_num_value_heads=heads, linear_num_key_heads=groups)
    positive("config", linear_key_head_dim=c.linear_key_head_dim, inner=c.inner)
    check_kernel(c.linear_conv_kernel_dim)
    if heads % groups or c.inner % heads:
        raise CheckpointError(
            f"config: {c.inner} columns in {heads} heads in {groups} groups are no equal parts.",
            fix="download the checkpoint's config again.",
        )


def _attention(w: Weights, c: Config, layer: LayerPlan) -> GatedAttention:
    heads, width, kv, bias = c.num_attention_heads, c.width, c.kv_heads, c.attention_bias
    rows = (2 * heads * width, kv * width, kv * width)
    return GatedAttention(
        ops=w.ops,
        into=w.linear(("q_proj", "k_proj", "v_proj"), c.hidden_size, rows, bias=bias),
        out=w.linear("o_proj", heads * width, c.hidden_size, bias=bias),
        where=w.states.add(PagedKV(kv, width, width, None)),
        heads=heads,
        kv_heads=kv,
        width=width,
        rope=layer.rope,
        q_norm=w.rms_norm("q_norm", width, c.rms_norm_eps, heads=heads, centre=1.0),
        k_norm=w.rms_norm("k_norm", width, c.rms_norm_eps, heads=kv, centre=1.0),
    )


def _delta(w: Weights, c: Config) -> DeltaNet:
    dim, heads, groups = c.hidden_size, c.linear_num_value_heads, c.linear_num_key_heads
    states, columns, keys = c.linear_key_head_dim, c.inner // heads, groups * c.linear_key_head_dim
    convolved, rows = 2 * keys + c.inner, c.linear_conv_kernel_dim
    shapes = ((CONV, (rows - 1, convolved)), (SCAN, scan_shape(states, columns, heads)))
    where = w.states.add(Fixed(shapes))
    if w.has("in_proj_qkv.weight"):
        into = [w.linear("in_proj_qkv", dim, convolved), w.linear("in_proj_z", dim, c.inner)]
        of = 1
    else:
        into, of = [w.linear("in_proj_qkvz", dim, convolved + c.inner)], groups
    rates = -np.exp(floats(w.floats("A_log", (heads,))))
    return DeltaNet(
        ops=w.ops,
        into=into,
        widths=(keys // of, keys // of, c.inner // of, c.inner // of),
        parts=of,
        controls=w.linear("in_proj_ba", dim, 2 * heads),
        conv=conv(w, convolved, rows, where, bias=False, act=c.hidden_act),
        bias=w.ops.vector([w.packed("dt_bias", (heads,))]),
        rates=w.ops.vector([packed_floats(rates)]),
        norm=w.rms_norm("norm", columns, c.rms_norm_eps, heads=heads),
        out=w.linear("out_proj", c.inner, dim),
        where=where,
        groups=groups,
        heads=heads,
    )
