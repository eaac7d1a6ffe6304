"""Convolutions and recurrences of the reference backend: how it finds a sequence's state."""

from __future__ import annotations

from torch import Tensor

from rbee_worker.ops import Activation, Ops
from rbee_worker.ops.batch import Batch, FixedState
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.scan import (
    causal_conv,
    into_cells,
    linear_scan,
    out_of_cells,
    selective_scan,
    softplus,
)
from rbee_worker.state.specs import StateRef


class RecurrenceOps(Ops):
    """The part of `ReferenceOps` that goes on from a sequence's fixed state."""

    def linear_scan(
        self, x: Tensor, decay: Tensor, where: StateRef, name: str, batch: Batch
    ) -> Tensor:
        kept, slots = kept_of(where, name, batch)
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
        kept, slots = kept_of(where, name, batch)
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
        kept, slots = kept_of(where, name, batch)
        rows, width = x.float(), x.shape[1]
        h = out_of_cells(kept[slots], width)
        y = selective_scan(
            rows,
            softplus(dt.float()),
            b.float()[:, None],
            c.float()[:, None],
            out_of_cells(rates.view(kept.shape[1:]), width),
            h,
            batch.seq_starts_host,
        )
        kept[slots] = into_cells(h)
        return ((y + skip * rows) * activate(gate.float(), "silu")).to(x.dtype)

    def ssd(
        self,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor,
        gate: Tensor | None,
        bias: Tensor,
        rates: Tensor,
        skip: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int = 1,
    ) -> Tensor:
        kept, slots = kept_of(where, name, batch)
        rows, heads = x.float(), dt.shape[1]
        columns = x.shape[1] // heads
        h = out_of_cells(kept[slots], columns, heads)
        y = selective_scan(
            rows,
            softplus(dt.float() + bias),
            b.float().view(len(b), groups, -1),
            c.float().view(len(c), groups, -1),
            rates[None],
            h,
            batch.seq_starts_host,
        )
        kept[slots] = into_cells(h, heads)
        y = y + skip.repeat_interleave(columns) * rows
        return (y if gate is None else y * activate(gate.float(), "silu")).to(x.dtype)


def kept_of(where: StateRef, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """A layer's tensor of that name [slots, ...], and the slot of each sequence."""
    state = batch.state[where.group]
    assert isinstance(state, FixedState)
    kept: Tensor = state.tensors[name][where.layer]
    return kept, state.slots
