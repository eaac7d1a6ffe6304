"""Decoding steps of state spaces on the cuda backend: launches that do what several operations do.

Nodes of `state_space_fusions.py` call these. In steps of another form, and with `--deterministic`,
each computes its operations one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rbee_worker.ops import Activation, Weight
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.kernels.recurrence.gemv_conv import gemv_conv
from rbee_worker.ops.cuda.kernels.recurrence.product_scan import product_scan
from rbee_worker.ops.cuda.product_ops import ProductOps
from rbee_worker.ops.cuda.recurrence_ops import RecurrenceOps, kept
from rbee_worker.state.specs import StateRef


class StateSpaceOps(ProductOps, RecurrenceOps):
    """The part of `DeviceOps` for decoding with state spaces."""

    def product_conv(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None,
        widths: Sequence[int],
        part: int,
        taps: Tensor,
        taps_bias: Tensor | None,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        kind: Activation | None,
        norm: tuple[Tensor | None, float] | None = None,
    ) -> tuple[Tensor, ...]:
        """`product` split into parts of these widths, one of which then goes through `causal_conv`;
        for one row in one launch."""
        if self.fixed or x.shape[0] != 1 or len(batch.seq_starts_host) != 2:
            y = self.product(x, weight, bias, norm=norm)
            parts = list(self.split(y, widths))
            parts[part] = self.causal_conv(
                parts[part], taps, taps_bias, where, name, batch, kind=kind
            )
            return tuple(parts)
        state, sequences = kept(where, name, batch)
        dense, scales = self._operand(weight.data)
        row = gemv_conv(
            (x if norm is not None else x.to(self._dtype)).contiguous(), dense,
            sum(widths[:part]), taps, taps_bias, state, sequences.slots, kind=kind,
            form=self._dtype, scales=scales, norm=norm, bias=bias, pdl=self.pdl,
            shape=self._kept_shape(1, dense, None),
        )  # fmt: skip
        return tuple(torch.split(row, list(widths), dim=1))

    def product_scan(
        self,
        x: Tensor,
        narrow: Tensor,
        weight: Weight,
        bias: Tensor | None,
        b: Tensor,
        c: Tensor,
        gate: Tensor,
        rates: Tensor,
        skip: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Tensor:
        """`selective_scan` with the product that makes its dt from a narrow one; for one row in one
        launch."""
        state, sequences = kept(where, name, batch)
        if self.fixed or x.shape[0] != 1 or sequences.number != 1:
            dt = self.product(narrow, weight, bias)
            return self.selective_scan(x, dt, b, c, gate, rates, skip, where, name, batch)
        return product_scan(
            x, narrow, weight.data.floats(self._dtype), bias, b, c, gate, rates, skip, state,
            sequences.slots, pdl=self.pdl,
        )  # fmt: skip
