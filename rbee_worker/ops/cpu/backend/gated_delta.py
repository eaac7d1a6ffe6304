"""Gated delta rules: what the cpu backend records for them."""

from __future__ import annotations

from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cpu.backend.recurrence import RecurrenceOps
from rbee_worker.ops.cpu.runtime.recording import buf_of, equal_parts, pointer
from rbee_worker.state.specs import StateRef


class GatedDeltaOps(RecurrenceOps):
    """The part of `CpuOps` for gated delta rules."""

    def gated_delta(
        self,
        q: Array,
        k: Array,
        v: Array,
        dt: Array,
        beta: Array,
        bias: Array,
        rates: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int,
    ) -> Array:
        heads = buf_of(dt).width
        columns = equal_parts(buf_of(v).width, heads)
        states = equal_parts(buf_of(q).width, groups)
        assert (buf_of(k).width, buf_of(beta).width) == (groups * states, heads)
        assert heads % groups == 0
        assert bias.shape == rates.shape == (heads,)
        return self._in_order(
            "delta.gated",
            {"x": v, "q": q, "k": k, "dt": dt, "beta": beta},
            self._kept(where, name, scan_shape(states, columns, heads)),
            bias=pointer(bias),
            rates=pointer(rates),
            heads=heads,
            columns=columns,
            groups=groups,
            states=states,
        )
