"""Mamba and Falcon-Mamba: selective state spaces without attention.

model_type: mamba (Gu & Dao 2023), falcon_mamba (Zuo et al. 2024: RMS norms without weights for dt,
B and C). No layer feeds forward, nothing has positions; what a sequence keeps is of one size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import SinglePreNorm
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.layers.state_space import CONV, SCAN, CausalConv, SelectiveSpace
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import RecurrentConfig, activation, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops.cells import by_cell, scan_shape
from rbee_worker.state.specs import Fixed, StateRef

NAMES = parts.Names(embed="backbone.embeddings", layers="backbone.layers")


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentConfig):
    """Mamba's own keys."""

    intermediate_size: int = 0  # 0: expand times the width
    expand: int = 2
    state_size: int = 16
    conv_kernel: int = 4
    time_step_rank: int | str = "auto"
    layer_norm_epsilon: float = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    residual_in_fp32: bool = True
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> int:
        """Columns of the recurrence."""
        return self.intermediate_size or self.expand * self.hidden_size

    @property
    def rank(self) -> int:
        """Columns of dt before it has one for each of `inner`. Raises CheckpointError."""
        if isinstance(self.time_step_rank, int):
            return self.time_step_rank
        if self.time_step_rank != "auto":
            raise CheckpointError(
                f"config: time_step_rank is {self.time_step_rank!r}.",
                fix="it is a number or auto; download the checkpoint's config again.",
            )
        return -(-self.hidden_size // 16)

    @property
    def parameter_norm(self) -> float | None:
        """The epsilon of the norms of dt, B and C; None: there are none."""
        return None


@dataclass(frozen=True, kw_only=True)
class Falcon(Config):
    """Falcon-Mamba has one key more."""

    mixer_rms_eps: float | None = 1e-6  # None: that of the other norms, as llama.cpp has it

    @property
    def parameter_norm(self) -> float | None:
        return self.layer_norm_epsilon if self.mixer_rms_eps is None else self.mixer_rms_eps


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.inner,
        layers=c.num_hidden_layers,
        state=c.state_size,
        conv_kernel=c.conv_kernel,
        time_step_rank=c.rank,
    )

    def block(at: Weights, layer: LayerPlan) -> SinglePreNorm:
        norm = at.rms_norm("norm", c.hidden_size, c.layer_norm_epsilon)
        return SinglePreNorm(w.ops, norm, _mixer(at.sub("mixer"), c), c.residual_in_fp32)

    norm = w.rms_norm("backbone.norm_f", c.hidden_size, c.layer_norm_epsilon)
    return parts.decoder(w, c, plan_layers(c, None), block, norm, names=NAMES)


def _mixer(w: Weights, c: Config) -> SelectiveSpace:
    inner, states = c.inner, c.state_size
    shapes = ((CONV, (c.conv_kernel - 1, inner)), (SCAN, scan_shape(states, inner)))
    where = w.states.add(Fixed(shapes))
    eps = c.parameter_norm
    into = w.linear("in_proj", c.hidden_size, 2 * inner, bias=c.use_bias)
    rates = -np.exp(floats(w.floats("A_log", (inner, states))))
    return SelectiveSpace(
        ops=w.ops,
        into=replace(into, widths=(inner, inner)),
        conv=_conv(w, c, where),
        parameters=replace(
            w.linear("x_proj", inner, c.rank + 2 * states), widths=(c.rank, states, states)
        ),
        step=w.linear("dt_proj", c.rank, inner, bias=True),
        rates=w.ops.vector([packed_floats(by_cell(rates.T))]),
        skip=w.ops.vector([w.packed("D", (inner,))]),
        out=w.linear("out_proj", inner, c.hidden_size, bias=c.use_bias),
        where=where,
        norm=None if eps is None else RMSNorm(w.ops, None, eps),
    )


def _conv(w: Weights, c: Config, where: StateRef) -> CausalConv:
    taps = floats(w.floats("conv1d.weight", (c.inner, 1, c.conv_kernel)))
    return CausalConv(
        ops=w.ops,
        taps=w.ops.vector([packed_floats(np.ascontiguousarray(taps[:, 0].T))]),
        bias=w.ops.vector([w.packed("conv1d.bias", (c.inner,))]) if c.use_conv_bias else None,
        act=activation(c.hidden_act),
        where=where,
    )
