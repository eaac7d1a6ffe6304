"""Norms: what the cpu backend records for them."""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.runtime.recorder import reads, writes
from rbee_worker.ops.cpu.runtime.recording import RecordingOps, buf_of, equal_parts, pointer


class NormOps(RecordingOps):
    """The part of `CpuOps` that norms rows, or heads of rows."""

    def rms_norm(self, x: Array, weight: Array | None, eps: float, *, heads: int = 1) -> Array:
        return self._norm("norm.rms", x, eps, heads, weight=pointer(weight))

    def layer_norm(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float, *, heads: int = 1
    ) -> Array:
        vectors = [v for v in (weight, bias) if v is not None]
        own = heads > 1 and any(v.size == buf_of(x).width for v in vectors)
        assert not own or all(v.size == buf_of(x).width for v in vectors)
        return self._norm(
            f"norm.{'heads' if own else 'layer'}",
            x,
            eps,
            heads,
            weight=pointer(weight),
            bias=pointer(bias),
        )

    def _norm(self, kernel: str, x: Array, eps: float, heads: int, **vectors: Any) -> Array:
        source = buf_of(x)
        width = equal_parts(source.width, heads)
        for vector in vectors.values():
            assert isinstance(vector, int) or vector.shape in ((width,), (source.width,))
        y = self._result(source.width)
        self.now.recorder.call(
            kernel,
            [reads(source), writes(y)],
            x=source.slot,
            x_stride=source.stride,
            y=y.slot,
            y_stride=y.stride,
            eps=eps,
            heads=heads,
            width=width,
            **vectors,
        )
        return y

    def add_rms_norm(
        self, x: Array, residual: Array, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        a, b = buf_of(x), buf_of(residual, buf_of(x).width)
        y, total = self._result(a.width), self._result(a.width)
        self.now.recorder.call(
            "norm.add_rms",
            [reads(a), reads(b), writes(y), writes(total)],
            x=a.slot,
            x_stride=a.stride,
            z=b.slot,
            z_stride=b.stride,
            y=y.slot,
            y_stride=y.stride,
            sum_to=total.slot,
            sum_stride=total.stride,
            weight=pointer(weight),
            eps=eps,
            width=a.width,
        )
        return y, total
