"""Based's linear attention: what the cpu backend records for it."""

from __future__ import annotations

from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cpu.backend.recurrence import RecurrenceOps
from rbee_worker.ops.cpu.runtime.recorder import ALL, Touch, reads, writes
from rbee_worker.ops.cpu.runtime.recording import buf_of, equal_parts
from rbee_worker.ops.taylor import taylor_states
from rbee_worker.state.specs import StateRef


class TaylorOps(RecurrenceOps):
    """The part of `CpuOps` for Based."""

    def taylor(
        self,
        q: Array,
        k: Array,
        v: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Array:
        rec, values = self.now.recorder, buf_of(v)
        columns = equal_parts(values.width, heads)
        size = equal_parts(buf_of(q).width, heads)
        query, key = buf_of(q), buf_of(k, heads * size)
        state, found = self._kept(where, name, scan_shape(taylor_states(size), columns + 1, heads))
        sums, y = rec.buffer(heads * (columns + 1)), rec.buffer(values.width)
        rec.call(
            "taylor.sums",
            [
                *(reads(buf, ALL) for buf in (query, key, values)),
                Touch(state, ALL, True),
                writes(sums, ALL),
            ],
            q=query.slot,
            q_stride=query.stride,
            k=key.slot,
            k_stride=key.stride,
            x=values.slot,
            x_stride=values.stride,
            y=sums.slot,
            y_stride=sums.stride,
            **found,
            heads=heads,
            columns=columns,
            size=size,
        )
        rec.call(
            "taylor.quotients",
            [reads(sums, ALL), writes(y, ALL)],
            x=sums.slot,
            x_stride=sums.stride,
            y=y.slot,
            y_stride=y.stride,
            heads=heads,
            columns=columns,
        )
        return y
