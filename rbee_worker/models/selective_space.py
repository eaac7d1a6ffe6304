"""Mixers of Mamba's kind from a checkpoint, for Mamba and for hybrids that have some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.state_space import CONV, SCAN, SelectiveSpace
from rbee_worker.models.causal_conv import conv
from rbee_worker.models.weights import Weights
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cells import by_cell, scan_shape
from rbee_worker.state.specs import Fixed


@dataclass(frozen=True)
class Sizes:
    """dim: columns of the model; inner: of the recurrence; states: numbers of each; rank: columns
    of the narrow dt; kernel: rows that the convolution sees."""

    dim: int
    inner: int
    states: int
    rank: int
    kernel: int


def rank(key: str, value: int | str, hidden: int) -> int:
    """The rank that a config's `key` says, which may be "auto". Raises CheckpointError."""
    if isinstance(value, int):
        return value
    if value != "auto":
        raise CheckpointError(
            f"config: {key} is {value!r}, not a number or auto.",
            fix="download the checkpoint's config again.",
        )
    return -(-hidden // 16)


def selective_space(
    w: Weights,
    s: Sizes,
    *,
    act: str,
    bias: bool,
    conv_bias: bool,
    norms: Sequence[Callable[[Array], Array]] | None,
) -> SelectiveSpace:
    """The mixer at the cursor. act: of the convolution; bias: of the first and the last projection;
    norms: of the narrow dt, B and C."""
    shapes = ((CONV, (s.kernel - 1, s.inner)), (SCAN, scan_shape(s.states, s.inner)))
    where = w.states.add(Fixed(shapes))
    into = w.linear("in_proj", s.dim, 2 * s.inner, bias=bias)
    of_x = w.linear("x_proj", s.inner, s.rank + 2 * s.states)
    rates = -np.exp(floats(w.floats("A_log", (s.inner, s.states))))
    return SelectiveSpace(
        ops=w.ops,
        into=replace(into, widths=(s.inner, s.inner)),
        conv=conv(w, s.inner, s.kernel, where, bias=conv_bias, act=act),
        parameters=replace(of_x, widths=(s.rank, s.states, s.states)),
        step=w.linear("dt_proj", s.rank, s.inner, bias=True),
        rates=w.ops.vector([packed_floats(by_cell(rates.T))]),
        skip=w.ops.vector([w.packed("D", (s.inner,))]),
        out=w.linear("out_proj", s.inner, s.dim, bias=bias),
        where=where,
        norms=norms,
    )
