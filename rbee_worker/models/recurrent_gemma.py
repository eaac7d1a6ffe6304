"""RecurrentGemma: two layers of a gated recurrence, then one with attention in a window, and so on.

model_type: recurrent_gemma (Botev et al. 2024; Griffin, De et al. 2024). Norms as Gemma's; half of
each head rotates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import Mixer, PreNorm
from rbee_worker.layers.rg_lru import RgLruBlock
from rbee_worker.layers.state_space import CONV, SCAN
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import check_kernel, conv
from rbee_worker.models.config import (
    RECURRENT,
    SLIDING,
    UNBOUNDED,
    DecoderConfig,
    activation,
    positive,
)
from rbee_worker.models.experts import member, transpose
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Weight
from rbee_worker.ops.batch import Array
from rbee_worker.state.specs import Fixed

_KINDS = {"recurrent": RECURRENT, "attention": SLIDING}


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """RecurrentGemma's own keys. No layer sees further than its window, so there is no longest
    sequence; intermediate_size is that of gate and up together."""

    max_position_embeddings: int = UNBOUNDED
    tie_word_embeddings: bool = True
    partial_rotary_factor: float = 0.5
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    attention_window_size: int = 2048
    block_types: list[str] | None = None  # None: recurrent, recurrent, attention
    conv1d_width: int = 4
    logits_soft_cap: float = 30.0
    lru_width: int | None = None

    @property
    def recurrence(self) -> int:
        """Columns of the recurrence."""
        return self.hidden_size if self.lru_width is None else self.lru_width

    @property
    def kinds(self) -> Sequence[str]:
        types = self.block_types or ["recurrent", "recurrent", "attention"]
        count = self.num_hidden_layers
        return [_KINDS.get(kind, kind) for kind in (types * -(-count // len(types)))[:count]]

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {SLIDING: self.attention_window_size, RECURRENT: None}

    @property
    def rotates(self) -> Sequence[object]:
        return [kind == SLIDING for kind in self.kinds]


def build(c: Config, w: Weights) -> Decoder:
    """recurrent_gemma. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    _check(c)
    plans = plan_layers(c, parts.rope_of(w, c))

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        if layer.kind == RECURRENT:
            return _recurrent(at, c)
        return parts.attention(at, c, layer=layer, bias=c.attention_bias, out_bias=True)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        dim, eps = c.hidden_size, c.rms_norm_eps
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("temporal_pre_norm", dim, eps, centre=1.0),
            attention=mixer(at.sub("temporal_block"), layer),
            mlp_norm=at.rms_norm("channel_pre_norm", dim, eps, centre=1.0),
            mlp=parts.gated_mlp(
                at.sub("mlp_block"),
                c,
                act=c.hidden_activation,
                bias=True,
                inner=c.intermediate_size // 2,
            ),
        )

    return parts.decoder(
        w,
        c,
        plans,
        block,
        w.rms_norm("model.final_norm", c.hidden_size, c.rms_norm_eps, centre=1.0),
        embed_scale=_bf16(c.hidden_size**0.5),
        logits_softcap=c.logits_soft_cap,
    )


def _check(c: Config) -> None:
    positive("config", lru_width=c.recurrence, logits_soft_cap=c.logits_soft_cap)
    check_kernel(c.conv1d_width)
    if c.recurrence % c.num_attention_heads:
        raise CheckpointError(
            f"config: lru_width is {c.recurrence}, not {c.num_attention_heads} equal parts.",
            fix="download the checkpoint's config again.",
        )
    if c.rope_scaling is not None:
        raise UnsupportedModel(
            "config: rope_scaling is not supported for this architecture.",
            fix="check model_type: published models of this architecture have none.",
        )


def _recurrent(w: Weights, c: Config) -> RgLruBlock:
    width, heads = c.recurrence, c.num_attention_heads
    where = w.states.add(Fixed(((CONV, (c.conv1d_width - 1, width)), (SCAN, (width,)))))
    unit = w.sub("rg_lru")
    rates = -8.0 * np.logaddexp(np.float32(0), floats(unit.floats("recurrent_param", (width,))))
    return RgLruBlock(
        ops=w.ops,
        into=w.linear(("linear_x", "linear_y"), c.hidden_size, (width, width), bias=True),
        conv=conv(w, width, c.conv1d_width, where, bias=True, act=None, name="conv_1d"),
        input_gate=_gate(unit, "input_gate_weight", heads, width // heads),
        passing_gate=_gate(unit, "recurrent_gate_weight", heads, width // heads),
        input_bias=_bias(unit, "input_gate_bias", heads, width // heads),
        passing_bias=_bias(unit, "recurrent_gate_bias", heads, width // heads),
        rates=w.ops.vector([packed_floats(rates.astype(np.float32))]),
        out=w.linear("linear_out", width, c.hidden_size, bias=True),
        act=activation(c.hidden_activation),
        where=where,
    )


def _gate(w: Weights, name: str, heads: int, width: int) -> Weight:
    """A square matrix for each head; in the file its rows are inputs, so blocks are unpacked."""
    whole = w.packed(name, (heads, width, width))
    if FORMATS[whole.format].block != 1:
        whole = w.ops.floats(whole)
    return w.ops.stack([[transpose(member(whole, head))] for head in range(heads)])


def _bias(w: Weights, name: str, heads: int, width: int) -> Array:
    return w.ops.vector([w.packed(name, (heads, width))])


def _bf16(value: float) -> float:
    """The nearest bfloat16, which is what the model multiplies its embeddings with."""
    bits = np.array(value, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return float(rounded.astype(np.uint32).view(np.float32))
