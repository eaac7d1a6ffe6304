"""Elementwise operations: what the cpu backend records for them."""

from __future__ import annotations

from typing import Any

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.runtime.recorder import ALL, Buf, cells, reads, writes
from rbee_worker.ops.cpu.runtime.recording import RecordingOps, buf_of, equal_parts
from rbee_worker.ops.cpu.shared.forms import CELL, UNIT


class ElementwiseOps(RecordingOps):
    """The part of `CpuOps` that computes each number from one or two others."""

    def add(self, x: Array, y: Array) -> Array:
        return self._each("add", buf_of(x), buf_of(y, buf_of(x).width), by_rows=True)

    def act(self, x: Array, kind: Activation) -> Array:
        return self._each(f"act-{kind}", buf_of(x), a=0.0)

    def softcap(self, x: Array, cap: float) -> Array:
        return self._each("softcap", buf_of(x), a=cap)

    def gated(self, gate_up: Array, kind: Activation) -> Array:
        both = buf_of(gate_up)
        half = equal_parts(both.width, 2)
        gate, up = both.columns(0, half), both.columns(half, half)
        return self._each(f"gated-{kind}", gate, up)

    def clip(self, x: Array, limit: float) -> Array:
        return self._each("clip", buf_of(x), a=limit)

    def _each(
        self, kind: str, x: Buf, z: Buf | None = None, *, by_rows: bool = False, **fields: Any
    ) -> Buf:
        """Call a kernel of `kernels/each.py`. Threads share cells of columns, or whole rows."""
        y = self._result(x.width)
        cell = x.width if by_rows else _cell(x.width)
        share = cells(-(-x.width // cell))
        read = [reads(o, share if o.is_whole or by_rows else ALL) for o in (x, z) if o is not None]
        if z is not None:
            fields |= {"z": z.slot, "z_stride": z.stride}
        self.now.recorder.call(
            f"each.{kind}",
            [*read, writes(y, share)],
            x=x.slot,
            x_stride=x.stride,
            y=y.slot,
            y_stride=y.stride,
            width=x.width,
            cell=cell,
            **fields,
        )
        return y


def _cell(width: int) -> int:
    """The columns that a thread computes together: as many as products round together, if that
    divides the width."""
    return CELL if width % UNIT else UNIT
