"""Convolutions and recurrences of the reference backend: how it finds a sequence's state."""

from __future__ import annotations

from torch import Tensor

from rbee_worker.ops import Activation, Ops
from rbee_worker.ops.batch import Batch, FixedState
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.scan import causal_conv, linear_scan, selective_scan
from rbee_worker.state.specs import StateRef


class RecurrenceOps(Ops):
    """The part of `ReferenceOps` that goes on from a sequence's fixed state."""

    def linear_scan(
        self, x: Tensor, decay: Tensor, where: StateRef, name: str, batch: Batch
    ) -> Tensor:
        kept, slots = _kept(where, name, batch)
        starts = batch.seq_starts_host
        return linear_scan(x.float(), decay.float(), kept, slots, starts).to(x.dtype)

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
        kept, slots = _kept(where, name, batch)
        by_row = taps.view(-1, x.shape[1])
        assert len(by_row) == kept.shape[1] + 1
        y = causal_conv(x.float(), by_row, bias, kept, slots, batch.seq_starts)
        return (y if kind is None else activate(y, kind)).to(x.dtype)

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
        kept, slots = _kept(where, name, batch)
        y = selective_scan(
            x.float(),
            dt.float(),
            b.float(),
            c.float(),
            gate.float(),
            rates.view(b.shape[1], x.shape[1]),
            skip,
            kept,
            slots,
            batch.seq_starts_host,
        )
        return y.to(x.dtype)


def _kept(where: StateRef, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """A layer's tensor of that name [slots, ...], and the slot of each sequence."""
    state = batch.state[where.group]
    assert isinstance(state, FixedState)
    kept: Tensor = state.tensors[name][where.layer]
    return kept, state.slots
