"""Falcon-H1: Mamba 2 and attention side by side in each layer, then a gated MLP.

model_type: falcon_h1 (TII 2025). muP multipliers everywhere; GGUF files have them in their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import Both, Mixer, Scaled
from rbee_worker.models import headed_space, hybrid, parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights
from rbee_worker.ops.batch import Array


@dataclass(frozen=True, kw_only=True)
class Config(hybrid.Config):
    """Falcon-H1's own keys. mlp_multipliers: of the gate and of the result; ssm_multipliers: of the
    gate, x, B, C and dt."""

    num_key_value_heads: int | None = 8
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 8192
    mamba_d_ssm: int | None = 1024
    mamba_rms_norm: bool = False
    mamba_norm_before_gate: bool = True
    projectors_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    lm_head_multiplier: float = 1.0
    key_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    ssm_in_multiplier: float = 1.0
    ssm_out_multiplier: float = 1.0
    mlp_multipliers: list[float] | None = None
    ssm_multipliers: list[float] | None = None


def build(c: Config, w: Weights) -> Decoder:
    """falcon_h1. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    space = hybrid.sizes(c)
    gate, result = _given("mlp_multipliers", c.mlp_multipliers, 2)
    z, x, b, c_, dt = _given("ssm_multipliers", c.ssm_multipliers, 5)
    widths = (space.inner, space.inner, space.shared, space.shared, space.heads)
    into = _factors(w, (z, x, b, c_, dt), widths)
    gates = _factors(w, (gate, 1.0), (c.intermediate_size, c.intermediate_size))

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        recurrent = headed_space.headed_space(
            at.sub("mamba"),
            space,
            act=c.hidden_act,
            eps=c.rms_norm_eps if c.mamba_rms_norm else None,
            bias=c.mamba_proj_bias,
            out_bias=c.projectors_bias,
            conv_bias=c.mamba_conv_bias,
            norm_first=c.mamba_rms_norm and c.mamba_norm_before_gate,
            factors=into,
        )
        # A factor of the keys is one of the scores.
        attention = parts.attention(
            at.sub("self_attn"),
            c,
            layer=layer,
            bias=c.attention_bias,
            out_bias=c.attention_bias,
            scale=c.width**-0.5 * c.key_multiplier,
        )
        return Both(
            w.ops,
            Scaled(w.ops, recurrent, c.ssm_in_multiplier, c.ssm_out_multiplier),
            Scaled(w.ops, attention, c.attention_in_multiplier, c.attention_out_multiplier),
        )

    def feed_forward(at: Weights, layer: LayerPlan) -> Mixer:
        mlp = parts.gated_mlp(at.sub("feed_forward"), c, bias=c.mlp_bias)
        mlp = replace(mlp, gate_up=replace(mlp.gate_up, factors=gates))
        return Scaled(w.ops, mlp, after=result)

    by = prenorm.Multipliers(c.embedding_multiplier, 1.0, c.lm_head_multiplier)
    return hybrid.build(c, w, mixer, feed_forward, by=by)


def _given(key: str, values: Sequence[float] | None, count: int) -> Sequence[float]:
    """A config's multipliers; all are one if it has none. Raises CheckpointError."""
    if values is None:
        return [1.0] * count
    if len(values) != count or not all(isinstance(v, int | float) for v in values):
        raise CheckpointError(
            f"config: {key} is {str(values)[:60]}, not {count} numbers.",
            fix="download the checkpoint's config again.",
        )
    return values


def _factors(w: Weights, values: Sequence[float], widths: Sequence[int]) -> Array | None:
    """A vector with each value as often as its width says; None if all are one."""
    if all(v == 1.0 for v in values):
        return None
    return w.ops.vector([packed_floats(np.repeat(np.array(values, np.float32), widths))])
