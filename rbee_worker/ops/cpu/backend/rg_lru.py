"""RG-LRU's recurrence: what the cpu backend records for it."""

from __future__ import annotations

from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.backend.recurrence import RecurrenceOps
from rbee_worker.ops.cpu.runtime.recording import buf_of, pointer
from rbee_worker.state.specs import StateRef


class RgLruOps(RecurrenceOps):
    """The part of `CpuOps` for RG-LRU layers."""

    def rg_lru(
        self,
        x: Array,
        into: Array,
        passing: Array,
        into_bias: Array,
        passing_bias: Array,
        rates: Array,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Array:
        width = buf_of(x).width
        assert (buf_of(into).width, buf_of(passing).width) == (width, width)
        vectors = {"into_bias": into_bias, "passing_bias": passing_bias, "rates": rates}
        for vector in vectors.values():
            assert vector.shape == (width,)
        return self._in_order(
            "rg_lru.rows",
            {"x": x, "into": into, "passing": passing},
            self._kept(where, name, (width,)),
            **{part: pointer(vector) for part, vector in vectors.items()},
            width=width,
        )
