"""Mamba 2: a state space with heads; groups of heads share B and C.

model_type: mamba2 (Dao & Gu 2024; Codestral Mamba has 8 groups). The scan's result is gated, then
normed per group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.norm import GroupNorm
from rbee_worker.layers.state_space import CONV, SCAN, HeadedSpace
from rbee_worker.models import state_spaces
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import positive
from rbee_worker.models.weights import Weights
from rbee_worker.ops.cells import scan_shape
from rbee_worker.state.specs import Fixed


@dataclass(frozen=True, kw_only=True)
class Config(state_spaces.Config):
    """Mamba 2's own keys."""

    num_heads: int = 128
    head_dim: int | None = 64  # None: the columns divided by num_heads
    state_size: int = 128
    n_groups: int = 8
    time_step_limit: list[float] | None = None  # None: steps of any size

    @property
    def width(self) -> int:
        """Columns of a head."""
        return self.inner // self.num_heads if self.head_dim is None else self.head_dim


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    positive("config", heads=c.num_heads, groups=c.n_groups, hidden=c.hidden_size)
    if c.num_heads * c.width != c.inner:
        raise CheckpointError(
            f"config: {c.num_heads} heads of {c.width} columns do not make the {c.inner} columns "
            "that expand and hidden_size give.",
            fix="download the checkpoint's config again.",
        )
    if c.num_heads % c.n_groups:
        raise CheckpointError(
            f"config: {c.num_heads} heads do not make {c.n_groups} equal groups.",
            fix="download the checkpoint's config again.",
        )
    if c.time_step_limit not in (None, [0.0, math.inf]):
        raise UnsupportedModel(
            f"config: time_step_limit is {c.time_step_limit}, which is not supported.",
            fix="use a model without a limit: published ones have [0.0, Infinity].",
        )
    return state_spaces.build(c, w, lambda at: _mixer(at, c), head_dim=c.width)


def _mixer(w: Weights, c: Config) -> HeadedSpace:
    inner, heads, shared = c.inner, c.num_heads, c.n_groups * c.state_size
    convolved = inner + 2 * shared
    shapes = (
        (CONV, (c.conv_kernel - 1, convolved)),
        (SCAN, scan_shape(c.state_size, c.width, heads)),
    )
    where = w.states.add(Fixed(shapes))
    into = w.linear("in_proj", c.hidden_size, inner + convolved + heads, bias=c.use_bias)
    rates = -np.exp(floats(w.floats("A_log", (heads,))))
    gains = w.ops.vector([w.packed("norm.weight", (inner,))])
    return HeadedSpace(
        ops=w.ops,
        into=replace(into, widths=(inner, convolved, heads)),
        conv=state_spaces.conv(w, c, convolved, where),
        shared=shared,
        bias=w.ops.vector([w.packed("dt_bias", (heads,))]),
        rates=w.ops.vector([packed_floats(rates)]),
        skip=w.ops.vector([w.packed("D", (heads,))]),
        norm=GroupNorm(w.ops, gains, c.layer_norm_epsilon, c.n_groups),
        out=w.linear("out_proj", inner, c.hidden_size, bias=c.use_bias),
        where=where,
        groups=c.n_groups,
    )
