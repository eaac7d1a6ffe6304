"""Convolutions and recurrences of the cuda backend: their kernels, at the state of each layer."""

from __future__ import annotations

from torch import Tensor

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Batch, FixedState
from rbee_worker.ops.cuda.kernels.recurrence import (
    chunks,
    conv,
    delta_chunks,
    linear_scan,
    segments,
    ssd_chunks,
    state_space,
    wkv,
    wkv_chunks,
    wkv_delta_chunks,
)
from rbee_worker.ops.cuda.kernels.recurrence.delta import gated_delta
from rbee_worker.ops.cuda.kernels.recurrence.rg_lru import rg_lru
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.taylor import taylor
from rbee_worker.ops.cuda.rows import longest_rows
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef


class RecurrenceOps(ReferenceOps):
    """The part of `DeviceOps` that goes on from a sequence's fixed state.

    Steps with many rows of a sequence compute chunks or segments of them side by side. Their last
    bits depend on where a step ends, so with `--deterministic` rows are computed in order.
    """

    pdl: bool
    fixed: bool

    def _long(self, sequences: Sequences, least: int) -> bool:
        """Are rows computed side by side? least: rows from which on that is faster."""
        return not self.fixed and sequences.longest >= least

    def linear_scan(
        self, x: Tensor, decay: Tensor, where: StateRef, name: str, batch: Batch
    ) -> Tensor:
        state, sequences = kept(where, name, batch)
        long = self._long(sequences, segments.FROM)
        return linear_scan.linear_scan(x, decay, state, sequences, segments=long, pdl=self.pdl)

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
        before: Tensor | None = None,
        after: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.causal_conv`; before, after: factors on x, and on the result."""
        state, sequences = kept(where, name, batch)
        return conv.causal_conv(
            x, taps, bias, state, sequences, kind=kind, before=before, after=after, pdl=self.pdl
        )

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
        state, sequences = kept(where, name, batch)
        given = (x, dt, b, c, gate, rates, skip)
        long = self._long(sequences, segments.FROM)
        run = state_space.selective_segments if long else state_space.selective_scan
        return run(*given, state, sequences, pdl=self.pdl)

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
        state, sequences = kept(where, name, batch)
        given = (x, dt, b, c, gate, bias, rates, skip)
        long = self._long(sequences, chunks.FROM)
        run = ssd_chunks.ssd_chunks if long else state_space.ssd
        return run(*given, state, sequences, groups=groups, pdl=self.pdl)

    def rg_lru(
        self,
        x: Tensor,
        into: Tensor,
        passing: Tensor,
        into_bias: Tensor,
        passing_bias: Tensor,
        rates: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Tensor:
        state, sequences = kept(where, name, batch)
        gates = (x, into, passing, into_bias, passing_bias, rates)
        long = self._long(sequences, segments.FROM)
        return rg_lru(*gates, batch.positions, state, sequences, segments=long, pdl=self.pdl)

    def gated_delta(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dt: Tensor,
        beta: Tensor,
        bias: Tensor,
        rates: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int,
    ) -> Tensor:
        state, sequences = kept(where, name, batch)
        given = (q, k, v, dt, beta, bias, rates)
        long = self._long(sequences, chunks.FROM)
        run = delta_chunks.gated_delta_chunks if long else gated_delta
        return run(*given, state, sequences, groups=groups, pdl=self.pdl)

    def taylor(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Tensor:
        state, sequences = kept(where, name, batch)
        return taylor(q, k, v, state, sequences, heads=heads, pdl=self.pdl)

    # ---- RWKV

    def previous(self, x: Tensor, where: StateRef, name: str, batch: Batch) -> Tensor:
        return wkv.previous(x, *kept(where, name, batch), pdl=self.pdl)

    def lerp(
        self, x: Tensor, y: Tensor, factors: Tensor | None, moving: Tensor | None = None
    ) -> Tensor:
        return wkv.lerp(x, y, factors, moving, pdl=self.pdl)

    def wkv(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        decay: Tensor | None,
        base: Tensor,
        bonus: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Tensor:
        state, sequences = kept(where, name, batch)
        given = (r, k, v, decay, base, bonus)
        few = sequences.number * state.shape[1] <= segments.FILLED
        long = few and self._long(sequences, wkv_chunks.FROM)
        run = wkv_chunks.wkv_chunks if long else wkv.wkv
        return run(*given, state, sequences, heads=heads, pdl=self.pdl)

    def wkv_delta(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        decay: Tensor,
        rate: Tensor,
        removal: Tensor,
        renewal: Tensor,
        bonus: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> tuple[Tensor, Tensor]:
        given = (r, k, v, decay, rate, removal, renewal, bonus)
        state, sequences = kept(where, name, batch)
        long = self._long(sequences, chunks.FROM)
        run = wkv_delta_chunks.wkv_delta_chunks if long else wkv.wkv_delta
        return run(*given, state, sequences, heads=heads, pdl=self.pdl)


def kept(where: StateRef, name: str, batch: Batch) -> tuple[Tensor, Sequences]:
    """A layer's tensor of that name [slots, ...], and where each sequence has its rows and slot."""
    state = batch.state[where.group]
    assert isinstance(state, FixedState)
    sequences = Sequences(batch.seq_starts, state.slots, longest_rows(batch))
    return state.tensors[name][where.layer], sequences
