"""Recurrences of the cuda backend: how a kernel finds a sequence's state."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Batch, FixedState
from rbee_worker.ops.cuda.kernels.recurrence.conv import causal_conv
from rbee_worker.ops.cuda.kernels.recurrence.linear_scan import linear_scan
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.state_space import selective_scan, ssd
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef


class RecurrenceKernels(ReferenceOps):
    """The part of `DeviceOps` that goes on from a sequence's fixed state."""

    pdl = False

    def linear_scan(
        self, x: Tensor, decay: Tensor, where: StateRef, name: str, batch: Batch
    ) -> Tensor:
        return linear_scan(x, decay, *_kept(where, name, batch), pdl=self.pdl)

    def causal_conv(
        self,
        x: Tensor,
        taps: Tensor,
        bias: Tensor | None,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        kind: Activation | None,
    ) -> Tensor:
        return causal_conv(x, taps, bias, *_kept(where, name, batch), kind=kind, pdl=self.pdl)

    def selective_scan(
        self,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor,
        gate: Tensor,
        rates: Tensor,
        skip: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Tensor:
        return selective_scan(
            x, dt, b, c, gate, rates, skip, *_kept(where, name, batch), pdl=self.pdl
        )

    def ssd(
        self,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor,
        gate: Tensor,
        bias: Tensor,
        rates: Tensor,
        skip: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int = 1,
    ) -> Tensor:
        kept = _kept(where, name, batch)
        return ssd(x, dt, b, c, gate, bias, rates, skip, *kept, groups=groups, pdl=self.pdl)


def _kept(where: StateRef, name: str, batch: Batch) -> tuple[Tensor, Sequences]:
    """A layer's tensor of that name [slots, ...], and the step's sequences."""
    state = batch.state[where.group]
    assert isinstance(state, FixedState)
    kept: Tensor = state.tensors[name][where.layer]
    return kept, Sequences(batch.seq_starts, state.slots, longest_rows(batch))


def longest_rows(batch: Batch) -> int:
    """The rows of the sequence that has most in this step."""
    starts = batch.seq_starts_host
    if len(starts) - 1 == starts[-1]:
        return 1
    return max(end - start for start, end in pairwise(starts))
