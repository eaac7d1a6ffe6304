"""Causal convolutions from a checkpoint, for every family that has some."""

from __future__ import annotations

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.state_space import CausalConv
from rbee_worker.models.config import activation
from rbee_worker.models.weights import Weights
from rbee_worker.state.specs import StateRef


def check_kernel(rows: int) -> None:
    """Refuse a convolution that keeps no rows. Raises UnsupportedModel."""
    if rows < 2:
        raise UnsupportedModel(
            f"config: conv_kernel is {rows}; convolutions have at least 2 rows here.",
            fix="check the config: published models of this architecture have 4.",
        )


def conv(
    w: Weights,
    width: int,
    kernel: int,
    where: StateRef,
    *,
    bias: bool,
    act: str | None,
    name: str = "conv1d",
) -> CausalConv:
    """The convolution `name` at the cursor, with `width` columns; act: a config's activation."""
    taps = floats(w.floats(f"{name}.weight", (width, 1, kernel)))
    return CausalConv(
        ops=w.ops,
        taps=w.ops.vector([packed_floats(np.ascontiguousarray(taps[:, 0].T))]),
        bias=w.ops.vector([w.packed(f"{name}.bias", (width,))]) if bias else None,
        act=None if act is None else activation(act),
        where=where,
    )
