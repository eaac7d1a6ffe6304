"""Recurrent operations: what the cpu backend records for them."""

from __future__ import annotations

from math import prod
from typing import Any

from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.runtime.recorder import ALL, Touch, reads, writes
from rbee_worker.ops.cpu.runtime.recording import RecordingOps, buf_of
from rbee_worker.ops.cpu.shared import step
from rbee_worker.ops.cpu.shared.regions import Place
from rbee_worker.state.specs import ELEMENT_BYTES, Fixed, StateRef


class RecurrenceOps(RecordingOps):
    """The part of `CpuOps` that updates a sequence's fixed state."""

    def linear_scan(
        self, x: Array, decay: Array, where: StateRef, name: str, batch: Batch
    ) -> Array:
        source, factors = buf_of(x), buf_of(decay, buf_of(x).width)
        rec = self.now.recorder
        y = rec.buffer(source.width)
        state, fields = self._kept(where, name, (source.width,))
        rec.call(
            "scan.linear",
            [reads(source, ALL), reads(factors, ALL), Touch(state, ALL, True), writes(y, ALL)],
            x=source.slot,
            x_stride=source.stride,
            decay=factors.slot,
            decay_stride=factors.stride,
            y=y.slot,
            y_stride=y.stride,
            width=source.width,
            **fields,
        )
        return y

    def _kept(
        self, where: StateRef, name: str, shape: tuple[int, ...]
    ) -> tuple[Place, dict[str, Any]]:
        """The place of a layer's tensor, for barriers, and the kernel's arguments to find it."""
        spec = self.now.groups[where.group].spec
        assert isinstance(spec, Fixed)
        assert spec.dtype == "f32"
        names = [known for known, _ in spec.shapes]
        assert dict(spec.shapes)[name] == shape, f"{name}: {spec.shapes}, used as {shape}"
        place = Place(where.layer, where.layer + 1, f"state {where.group} {name}")
        return place, {
            "group": step.group_at(where.group),
            "tensor": step.tensor_at(where.group, names.index(name)),
            "slot_bytes": prod(shape) * ELEMENT_BYTES[spec.dtype],
            "layer": where.layer,
        }
