"""Llama 4 (text): most layers attend within a chunk and have positions, the others have neither.

model_type: llama4_text (Meta 2025); llama4 is the model with a vision tower, and its text model is
read as llama4_text. Queries and keys are normalised after they rotate. In a layer without
positions, queries are scaled by a factor that grows with the logarithm of their position. Each
token uses one expert, whose input is scaled by the router, beside one that all tokens share. GGUF
files leave out the settings that are the same in both published sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import packed_floats
from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import FeedForward, PreNorm
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import CHUNKED, FULL, DecoderConfig, activation, positive
from rbee_worker.models.experts import load_experts, load_fused
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops, RopeSpec, Routing
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import PagedKV, StateRef

IMAGES = {r"(vision_model|multi_modal_projector)\..*": "images are not read"}


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Llama 4's own keys. use_qk_norm None: as in the published sizes, where only the one with 128
    experts has no such norm."""

    num_key_value_heads: int = 8
    head_dim: int = 128
    max_position_embeddings: int = 131072
    rope_theta: float = 5e5
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    intermediate_size_mlp: int = 16384
    num_local_experts: int = 16
    num_experts_per_tok: int = 1
    interleave_moe_layer_step: int = 1
    moe_layers: list[int] | None = None
    use_qk_norm: bool | None = True
    no_rope_layers: list[int] | None = None  # a 0 means that the layer has no positions
    no_rope_layer_interval: int = 4
    layer_types: list[str] | None = None
    attention_chunk_size: int | None = 8192
    attn_temperature_tuning: bool | int = True
    floor_scale: int = 8192
    attn_scale: float = 0.1

    @property
    def rotates(self) -> Sequence[object]:
        every = self.no_rope_layer_interval
        positive("config", no_rope_layer_interval=every)
        counted = [(i + 1) % every != 0 for i in range(self.num_hidden_layers)]
        return self.no_rope_layers or counted

    @property
    def kinds(self) -> Sequence[str]:
        if self.layer_types is not None:
            return self.layer_types
        chunked = FULL if self.attention_chunk_size is None else CHUNKED
        return [chunked if turns else FULL for turns in self.rotates]

    @property
    def mixtures(self) -> Sequence[int]:
        """The numbers of the layers that have experts."""
        every, count = self.interleave_moe_layer_step, self.num_hidden_layers
        positive("config", interleave_moe_layer_step=every)
        return range(every - 1, count, every) if self.moe_layers is None else self.moe_layers

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {CHUNKED: self.attention_chunk_size, FULL: None}


@dataclass(frozen=True)
class Mixer:
    """Attention that normalises after rotating; factors: on a query, by (position + 1) // every."""

    ops: Ops
    qkv: Linear
    out: Linear
    where: StateRef
    heads: int
    kv_heads: int
    scale: float
    rope: RopeSpec | None
    chunk: int | None
    norm: Callable[[int], RMSNorm] | None  # makes the norm for a number of heads
    factors: Array | None
    every: int

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        ops, heads = self.ops, self.heads
        q, k, v = self.qkv.split(x, batch)
        if self.rope is not None:
            q = ops.rope(q, self.rope, batch, heads=heads)
            k = ops.rope(k, self.rope, batch, heads=self.kv_heads)
        if self.norm is not None:
            q, k = self.norm(heads)(q), self.norm(self.kv_heads)(k)
        if self.factors is not None:
            q = ops.scale_by_position(q, self.factors, batch, every=self.every, offset=1)
        mixed = ops.attend(
            q, k, v, self.where, batch, heads=heads, scale=self.scale, chunk=self.chunk
        )
        return self.out(mixed, batch)


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    _check(c)
    plans = plan_layers(c, parts.rope_of(w, c, interleaved=True))
    still = any(layer.rope is None for layer in plans)
    factors = _factors(w, c) if c.attn_temperature_tuning and still else None

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        feed: FeedForward
        inner = at.sub("feed_forward")
        if layer.number in c.mixtures:
            feed = _mixture(inner, c)
        else:
            feed = parts.gated_mlp(inner, c, inner=c.intermediate_size_mlp)
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=_mixer(at.sub("self_attn"), c, layer, factors),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=feed,
        )

    norm = w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps)
    return parts.decoder(w, c, plans, block, norm, skip=IMAGES)


def _check(c: Config) -> None:
    positive(
        "config",
        inner=c.intermediate_size_mlp,
        experts=c.num_local_experts,
        floor_scale=c.floor_scale,
    )
    if c.num_experts_per_tok != 1:
        raise UnsupportedModel(
            f"config: {c.num_experts_per_tok} experts for a token, but this architecture uses one.",
            fix="check num_experts_per_tok.",
        )


def _factors(w: Weights, c: Config) -> Array:
    """Temperatures (Nakanishi 2025): 1 + attn_scale * log(1 + n) for the nth floor_scale tokens."""
    steps = np.arange(c.max_position_embeddings // c.floor_scale + 1, dtype=np.float32)
    values = np.log1p(steps) * np.float32(c.attn_scale) + np.float32(1)
    return w.ops.vector([packed_floats(values.astype(np.float32))])


def _mixer(w: Weights, c: Config, layer: LayerPlan, factors: Array | None) -> Mixer:
    heads, kv = c.num_attention_heads, c.kv_heads
    widths = (heads * c.width, kv * c.width, kv * c.width)
    names, bias = ("q_proj", "k_proj", "v_proj"), c.attention_bias
    norms = c.num_local_experts != 128 if c.use_qk_norm is None else c.use_qk_norm
    bare = RMSNorm(w.ops, None, c.rms_norm_eps)
    return Mixer(
        ops=w.ops,
        qkv=w.linear(names, c.hidden_size, widths, bias=bias),
        out=w.linear("o_proj", heads * c.width, c.hidden_size, bias=bias),
        where=w.states.add(PagedKV(kv, c.width, c.width, layer.chunk)),
        heads=heads,
        kv_heads=kv,
        scale=float(c.width**-0.5),
        rope=layer.rope,
        chunk=layer.chunk,
        norm=(lambda n: replace(bare, heads=n)) if norms and layer.rope is not None else None,
        factors=factors if layer.rope is None else None,
        every=c.floor_scale,
    )


def _mixture(w: Weights, c: Config) -> MoE:
    dim, inner, count, at = (
        c.hidden_size,
        c.intermediate_size,
        c.num_local_experts,
        w.sub("experts"),
    )
    if at.has("gate_up_proj"):  # its rows are inputs
        up = load_fused(at, "gate_up_proj", count, dim, 2 * inner, transposed=True)
        down = load_fused(at, "down_proj", count, inner, dim, transposed=True)
    else:
        up = load_experts(at, ("gate_proj", "up_proj"), count, dim, inner)
        down = load_experts(at, ("down_proj",), count, inner, dim)
    return MoE(
        ops=w.ops,
        router=w.linear("router", dim, count),
        routing=Routing(1, "sigmoid"),
        experts=Experts(w.ops, up, down, activation(c.hidden_act)),
        weigh="inputs",
        shared=parts.gated_mlp(w.sub("shared_expert"), c),
    )
