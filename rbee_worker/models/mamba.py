"""Mamba and Falcon-Mamba: selective state spaces without attention.

model_type: mamba (Gu & Dao 2023), falcon_mamba (Zuo et al. 2024: RMS norms without weights for dt,
B and C).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.layers.state_space import CONV, SCAN, SelectiveSpace
from rbee_worker.models import state_spaces
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import conv
from rbee_worker.models.weights import Weights
from rbee_worker.ops.cells import by_cell, scan_shape
from rbee_worker.state.specs import Fixed


@dataclass(frozen=True, kw_only=True)
class Config(state_spaces.Config):
    """Mamba's own keys."""

    time_step_rank: int | str = "auto"
    tie_word_embeddings: bool = True

    @property
    def rank(self) -> int:
        """Columns of the narrow dt. Raises CheckpointError."""
        if isinstance(self.time_step_rank, int):
            return self.time_step_rank
        if self.time_step_rank != "auto":
            raise CheckpointError(
                f"config: time_step_rank is {self.time_step_rank!r}, not a number or auto.",
                fix="download the checkpoint's config again.",
            )
        return -(-self.hidden_size // 16)

    @property
    def parameter_norm(self) -> float | None:
        """The epsilon of the norms of dt, B and C; None: there are none."""
        return None


@dataclass(frozen=True, kw_only=True)
class Falcon(Config):
    """Falcon-Mamba's additional key."""

    mixer_rms_eps: float | None = 1e-6  # None: the epsilon of the other norms, as in llama.cpp

    @property
    def parameter_norm(self) -> float | None:
        return self.layer_norm_epsilon if self.mixer_rms_eps is None else self.mixer_rms_eps


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    return state_spaces.build(c, w, lambda at: _mixer(at, c), time_step_rank=c.rank)


def _mixer(w: Weights, c: Config) -> SelectiveSpace:
    inner, states, eps = c.inner, c.state_size, c.parameter_norm
    shapes = ((CONV, (c.conv_kernel - 1, inner)), (SCAN, scan_shape(states, inner)))
    where = w.states.add(Fixed(shapes))
    into = w.linear("in_proj", c.hidden_size, 2 * inner, bias=c.use_bias)
    of_x = w.linear("x_proj", inner, c.rank + 2 * states)
    rates = -np.exp(floats(w.floats("A_log", (inner, states))))
    return SelectiveSpace(
        ops=w.ops,
        into=replace(into, widths=(inner, inner)),
        conv=conv(w, inner, c.conv_kernel, where, bias=c.use_conv_bias, act=c.hidden_act),
        parameters=replace(of_x, widths=(c.rank, states, states)),
        step=w.linear("dt_proj", c.rank, inner, bias=True),
        rates=w.ops.vector([packed_floats(by_cell(rates.T))]),
        skip=w.ops.vector([w.packed("D", (inner,))]),
        out=w.linear("out_proj", inner, c.hidden_size, bias=c.use_bias),
        where=where,
        norm=None if eps is None else RMSNorm(w.ops, None, eps),
    )
