"""Mixers of Mamba 2's kind from a checkpoint, for Mamba 2 and for hybrids that have some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.norm import GroupNorm
from rbee_worker.layers.state_space import CONV, SCAN, HeadedSpace, NormedSpace
from rbee_worker.models.causal_conv import check_kernel, conv
from rbee_worker.models.config import positive
from rbee_worker.models.weights import Weights
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cells import scan_shape
from rbee_worker.state.specs import Fixed


@dataclass(frozen=True)
class Sizes:
    """What a mixer is made of. dim: columns of the model; inner: columns of the recurrence, in
    `heads` heads, whose B and C have `states` numbers for each of `groups` groups; kernel: rows
    that the convolution sees."""

    dim: int
    inner: int
    heads: int
    groups: int
    states: int
    kernel: int

    @property
    def shared(self) -> int:
        """Columns of B, and of C."""
        return self.groups * self.states

    @property
    def convolved(self) -> int:
        """Columns of x, B and C together."""
        return self.inner + 2 * self.shared


def check(s: Sizes, width: int, limit: Sequence[float] | None) -> None:
    """Refuse sizes that do not fit each other. width: of a head; limit: a config's time_step_limit.

    Raises CheckpointError, UnsupportedModel.
    """
    positive("config", hidden=s.dim, inner=s.inner, state=s.states)
    positive("config", heads=s.heads, groups=s.groups, head_dim=width)
    if s.heads * width != s.inner:
        raise CheckpointError(
            f"config: {s.heads} heads of {width} columns do not make the {s.inner} columns "
            "that expand and hidden_size give.",
            fix="download the checkpoint's config again.",
        )
    if s.heads % s.groups:
        raise CheckpointError(
            f"config: {s.heads} heads do not make {s.groups} equal groups.",
            fix="download the checkpoint's config again.",
        )
    if limit is not None and [*limit] != [0.0, math.inf]:
        raise UnsupportedModel(
            f"config: time_step_limit is {limit}, which is not supported.",
            fix="use a model without a limit: published ones have [0.0, Infinity].",
        )
    check_kernel(s.kernel)


def headed_space(
    w: Weights,
    s: Sizes,
    *,
    act: str,
    eps: float | None,
    bias: bool = False,
    out_bias: bool = False,
    conv_bias: bool = True,
    norm_first: bool = False,
    factors: Array | None = None,
) -> HeadedSpace:
    """The mixer at the cursor. act: of the convolution; eps: of the norm of the gated result (None:
    there is no norm); bias, out_bias: of the first and of the last projection; norm_first: the norm
    comes before the gate; factors: of the first projection's columns."""
    width = s.inner // s.heads
    shapes = ((CONV, (s.kernel - 1, s.convolved)), (SCAN, scan_shape(s.states, width, s.heads)))
    where = w.states.add(Fixed(shapes))
    into = w.linear("in_proj", s.dim, s.inner + s.convolved + s.heads, bias=bias)
    rates = -np.exp(floats(w.floats("A_log", (s.heads,))))
    norm = None
    if eps is not None:
        gains = w.ops.vector([w.packed("norm.weight", (s.inner,))])
        norm = GroupNorm(w.ops, gains, eps, s.groups)
    kind = NormedSpace if norm_first else HeadedSpace
    return kind(
        ops=w.ops,
        into=replace(into, widths=(s.inner, s.convolved, s.heads), factors=factors),
        conv=conv(w, s.convolved, s.kernel, where, bias=conv_bias, act=act),
        shared=s.shared,
        bias=w.ops.vector([w.packed("dt_bias", (s.heads,))]),
        rates=w.ops.vector([packed_floats(rates)]),
        skip=w.ops.vector([w.packed("D", (s.heads,))]),
        norm=norm,
        out=w.linear("out_proj", s.inner, s.dim, bias=out_bias),
        where=where,
        groups=s.groups,
    )
