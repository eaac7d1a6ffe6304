"""Columns, gates and positions: what the cpu backend records for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee_worker.ops import Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.backend.elementwise import ElementwiseOps
from rbee_worker.ops.cpu.runtime.recorder import Buf, reads, writes
from rbee_worker.ops.cpu.runtime.recording import buf_of, equal_parts, pointer
from rbee_worker.ops.cpu.shared import step
from rbee_worker.ops.cpu.shared.forms import CELL


class ColumnOps(ElementwiseOps):
    """The part of `CpuOps` that moves and multiplies columns."""

    def split(self, x: Array, widths: Sequence[int], *, heads: int = 1) -> tuple[Array, ...]:
        source, first, out = buf_of(x, heads * sum(widths)), 0, []
        for width in widths:
            if heads == 1:
                part = source.columns(first, width)
            else:
                part = self._result(heads * width)
                self._copy(source.columns(first, source.width - first), part, sum(widths), heads)
            out.append(part)
            first += width
        return tuple(out)

    def concat(self, parts: Sequence[Array], *, heads: int = 1) -> Array:
        given = [buf_of(p) for p in parts]
        y, first = self._result(sum(p.width for p in given)), 0
        whole = equal_parts(y.width, heads)
        for part in given:
            width = equal_parts(part.width, heads)
            to = y.columns(first, y.width - first)
            self._columns("copy", part, to, x_head=width, y_head=whole, heads=heads, width=width)
            first += width
        return y

    def _copy(self, x: Buf, y: Buf, x_head: int, heads: int) -> None:
        width = y.width // heads
        self._columns("copy", x, y, x_head=x_head, y_head=width, heads=heads, width=width)

    def _columns(self, kind: str, x: Buf, y: Buf, *others: Buf, **fields: Any) -> Buf:
        """Call a kernel of `kernels/columns.py`; the threads share the rows."""
        self.now.recorder.call(
            f"columns.{kind}",
            [reads(x), *(reads(o) for o in others), writes(y)],
            x=x.slot,
            x_stride=x.stride,
            y=y.slot,
            y_stride=y.stride,
            **fields,
        )
        return y

    def multiply(self, x: Array, y: Array) -> Array:
        a, b = buf_of(x), buf_of(y)
        if b.width == a.width:
            return self._each("multiply", a, b)
        assert b.width == 1
        to = self._result(a.width)
        return self._columns("gate", a, to, b, z=b.slot, z_stride=b.stride, width=a.width)

    def scale(self, x: Array, factor: float | Array) -> Array:
        source = buf_of(x)
        if isinstance(factor, int | float):
            return self._each("scale", source, by_rows=source.width < 4096, a=factor)
        assert factor.shape == (source.width,)
        to = self._result(source.width)
        return self._columns("scale", source, to, vector=pointer(factor), width=source.width)

    def scale_by_position(
        self, x: Array, factors: Array, batch: Batch, *, every: int = 1, offset: int = 0
    ) -> Array:
        source = buf_of(x)
        assert every > 0
        assert offset >= 0
        assert factors.size > 0
        to = self._result(source.width)
        self._columns(
            "position", source, to, factors=pointer(factors), count=factors.size, every=every,
            offset=offset, width=source.width,
        )  # fmt: skip
        return to

    def add_positions(self, x: Array, table: Weight, batch: Batch, *, offset: int = 0) -> Array:
        return self._add_rows(x, table, step.POSITIONS, offset)

    def add_segments(self, x: Array, table: Weight, batch: Batch) -> Array:
        return self._add_rows(x, table, step.SEGMENTS, 0)

    def _add_rows(self, x: Array, table: Weight, ids: int, offset: int) -> Array:
        """x plus rows of `table`. ids: where the header has the address of the rows' numbers."""
        source, rec = buf_of(x, table.cols), self.now.recorder
        (part,) = table.data.parts
        y = self._result(-(-table.cols // CELL) * CELL).columns(
            0, table.cols
        )  # kernels write cells
        rec.call(
            f"embed.{part.held.name}-add",
            [reads(source), writes(y)],
            w=part.data,
            x=source.slot,
            x_stride=source.stride,
            cols=table.cols,
            ids=ids // 8,
            offset=offset,
            y=y.slot,
            y_stride=y.stride,
            rows=part.rows,
        )
        return y
