"""Gemma 4 (text): wider heads in layers with full attention, an embedding for each layer.

model_type: gemma4_text (Google DeepMind 2026); gemma4 is the model that also reads images and
audio, and its text model is read as gemma4_text. Differences from Gemma 3: values are normalised.
In layers with full attention the heads are wider, a quarter of their pairs rotates and, if the
config says so, keys also serve as values. The last layers reuse the keys of the last earlier layer
of their type. A small embedding per layer is mixed in after the feed-forward block, and experts may
run beside that block. Norms are not centred on 1. GGUF files tell which pairs rotate by the
divisors in `rope_freqs`: those of the other pairs are huge.

`gemma4_config` has the config, `gemma4_blocks` what a block computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, activation
from rbee_worker.models.experts import load_experts, load_fused
from rbee_worker.models.gemma4_blocks import (
    Block,
    LayerInput,
    LayerInputs,
    Mixer,
    Mixture,
    WithLayerInputs,
)
from rbee_worker.models.gemma4_config import Config, check
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec, Routing
from rbee_worker.state.specs import PagedKV, StateRef


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    check(c)
    bare = plan_layers(c, None)
    heads = c.heads
    ropes = _ropes(c, w, bare, [width for width, _ in heads])
    plans = [replace(layer, rope=rope) for layer, rope in zip(bare, ropes, strict=True)]
    first = c.num_hidden_layers - c.num_kv_shared_layers  # the first that reuses keys of another
    written: dict[str, StateRef] = {}

    def block(at: Weights, layer: LayerPlan) -> Block:
        width, kv = heads[layer.number]
        shares = layer.number >= first
        if not shares:
            written[layer.kind] = w.states.add(PagedKV(kv, width, width, layer.window))
        elif layer.kind not in written:
            raise CheckpointError(
                f"config: layer {layer.number} shares keys, but no layer of its type has any.",
                fix="download the checkpoint's config again.",
            )
        mixer = _mixer(
            at.sub("self_attn"),
            c,
            layer,
            (width, kv),
            where=written[layer.kind],
            shares=shares,
            same=c.attention_k_eq_v and layer.kind == FULL,
        )
        double = 2 if shares and c.use_double_wide_mlp else 1
        mlp = parts.gated_mlp(
            at.sub("mlp"), c, act=c.hidden_activation, inner=double * c.intermediate_size
        )
        return Block(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=mixer,
            attention_after=_norm(at, c, "post_attention_layernorm"),
            mlp_norm=_norm(at, c, "pre_feedforward_layernorm"),
            mlp=mlp,
            mixture=_mixture(at, c) if c.enable_moe_block else None,
            mlp_after=_norm(at, c, "post_feedforward_layernorm"),
            own=_own(at, c) if c.hidden_size_per_layer_input else None,
            factor=float(floats(at.packed("layer_scalar", (1,)))[0]),
        )

    unread = "keys and values of an earlier layer are used"
    inputs = _inputs(w, c) if c.hidden_size_per_layer_input else None
    model = parts.decoder(
        w,
        c,
        plans,
        block,
        _norm(w, c, "model.norm"),
        embed_scale=c.hidden_size**0.5,
        logits_softcap=c.final_logit_softcapping,
        skip={
            r"(vision_tower|audio_tower|embed_vision|embed_audio)\..*": "only text is read",
            **{
                rf"model\.layers\.{n}\.self_attn\.[kv]_(proj|norm)\.weight": unread
                for n in range(first, c.num_hidden_layers)
            },
        },
    )
    return WithLayerInputs(**vars(model), inputs=inputs)


def _ropes(
    c: Config, w: Weights, layers: Sequence[LayerPlan], widths: Sequence[int]
) -> list[RopeSpec]:
    """The rotary table of each layer, made once per layer type and head width. In layers with full
    attention, columns pair up as if all rotated, but the last pairs do not rotate."""
    plain = {"rope_theta": 1e6, "rope_type": "proportional", "partial_rotary_factor": 0.25}
    made: dict[tuple[str, int], RopeSpec] = {}
    both = [(layer.kind, width) for layer, width in zip(layers, widths, strict=True)]
    for kind, width in dict.fromkeys(both):
        full = kind == FULL
        given: Mapping[str, Any] = (c.rope_parameters or {}).get(kind) or (
            plain if full else {"rope_theta": 1e4}
        )
        divided = full and w.has("model.rope_freqs")
        made[kind, width] = rope_spec(
            width,
            float(given["rope_theta"]),
            given,
            c.max_position_embeddings,
            divisors=w.numbers("model.rope_freqs", width // 2) if divided else None,
        )
    return [made[key] for key in both]


def _mixer(
    w: Weights,
    c: Config,
    layer: LayerPlan,
    heads: tuple[int, int],
    *,
    where: StateRef,
    shares: bool,
    same: bool,
) -> Mixer:
    (width, kv), count, eps = heads, c.num_attention_heads, c.rms_norm_eps
    names = ("k_proj",) if same else ("k_proj", "v_proj")
    assert layer.rope is not None
    return Mixer(
        ops=w.ops,
        q=w.linear("q_proj", c.hidden_size, count * width),
        kv=None if shares else w.linear(names, c.hidden_size, [kv * width] * len(names)),
        out=w.linear("o_proj", count * width, c.hidden_size),
        q_norm=w.rms_norm("q_norm", width, eps, heads=count),
        k_norm=None if shares else w.rms_norm("k_norm", width, eps, heads=kv),
        v_norm=RMSNorm(w.ops, None, eps, kv),
        where=where,
        heads=count,
        kv_heads=kv,
        rope=layer.rope,
        window=layer.window,
    )


def _mixture(w: Weights, c: Config) -> Mixture:
    dim, inner, count = c.hidden_size, c.moe_intermediate_size or 0, c.num_experts or 0
    at = w.sub("experts")
    if at.has("gate_up_proj"):
        up = load_fused(at, "gate_up_proj", count, dim, 2 * inner)
    else:
        up = load_experts(at, ("gate_proj", "up_proj"), count, dim, inner)
    if at.has("down_proj"):
        down = load_fused(at, "down_proj", count, inner, dim)
    else:
        down = load_experts(at, ("down_proj",), count, inner, dim)
    scale = floats(w.packed("router.scale", (dim,))) * np.float32(dim**-0.5)
    return Mixture(
        ops=w.ops,
        mlp_after=_norm(w, c, "post_feedforward_layernorm_1"),
        router_norm=RMSNorm(w.ops, w.ops.vector([packed_floats(scale)]), c.rms_norm_eps),
        before=_norm(w, c, "pre_feedforward_layernorm_2"),
        experts=MoE(
            ops=w.ops,
            router=w.linear("router.proj", dim, count),
            routing=Routing(c.top_k_experts or 0, normalise=True),
            experts=Experts(w.ops, up, down, activation(c.hidden_activation)),
            scales=w.ops.vector([w.packed("router.per_expert_scale", (count,))]),
        ),
        after=_norm(w, c, "post_feedforward_layernorm_2"),
    )


def _own(w: Weights, c: Config) -> LayerInput:
    width = c.hidden_size_per_layer_input
    return LayerInput(
        ops=w.ops,
        gate=w.linear("per_layer_input_gate", c.hidden_size, width),
        out=w.linear("per_layer_projection", width, c.hidden_size),
        norm=_norm(w, c, "post_per_layer_input_norm"),
        act=activation(c.hidden_activation),
    )


def _inputs(w: Weights, c: Config) -> LayerInputs:
    layers, width, at = c.num_hidden_layers, c.hidden_size_per_layer_input, w.sub("model")
    name, rows = "embed_tokens_per_layer.weight", c.vocab_size_per_layer_input
    # The projection is divided by sqrt(dim) before its norm, which equals a larger eps in the norm.
    eps = c.rms_norm_eps * c.hidden_size
    return LayerInputs(
        ops=w.ops,
        table=at.matrix(name, rows, layers * width),
        project=at.linear("per_layer_model_projection", c.hidden_size, layers * width),
        norm=at.rms_norm("per_layer_projection_norm", width, eps, heads=layers),
        scale=width**0.5,
    )


def _norm(w: Weights, c: Config, name: str) -> RMSNorm:
    return w.rms_norm(name, c.hidden_size, c.rms_norm_eps)
