"""Recurrent operations of the cpu backend: what is recorded for them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cpu.runtime.recorder import ALL, Touch, reads, writes
from rbee_worker.ops.cpu.runtime.recording import RecordingOps, buf_of, equal_parts, pointer
from rbee_worker.ops.cpu.shared import step
from rbee_worker.ops.cpu.shared.regions import Place
from rbee_worker.state.specs import ELEMENT_BYTES, Fixed, StateRef


class RecurrenceOps(RecordingOps):
    """The part of `CpuOps` that goes on from a sequence's fixed state."""

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

    def causal_conv(
        self,
        x: Array,
        taps: Array,
        bias: Array | None,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        kind: Activation | None,
    ) -> Array:
        source, rec = buf_of(x), self.now.recorder
        count = taps.size // source.width
        assert taps.shape == (count * source.width,)
        assert bias is None or bias.shape == (source.width,)
        y = rec.buffer(source.width)
        state, fields = self._kept(where, name, (count - 1, source.width))
        rec.call(
            f"conv.causal-{kind}" if kind else "conv.causal",
            [reads(source, ALL), Touch(state, ALL, True), writes(y, ALL)],
            x=source.slot,
            x_stride=source.stride,
            taps=pointer(taps),
            count=count,
            bias=pointer(bias),
            y=y.slot,
            y_stride=y.stride,
            width=source.width,
            **fields,
        )
        return y

    def selective_scan(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        gate: Array,
        rates: Array,
        skip: Array,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Array:
        width, states = buf_of(x).width, buf_of(b).width
        shape = scan_shape(states, width)
        assert rates.shape == (prod(shape),)
        assert skip.shape == (width,)
        assert buf_of(c).width == states
        assert buf_of(dt).width == width
        rows = {"x": x, "dt": dt, "b": b, "c": c, "gate": gate}
        kept = self._kept(where, name, shape)
        vectors = {"rates": pointer(rates), "skip": pointer(skip)}
        return self._scan("selective", rows, kept, **vectors, width=width, states=states)

    def ssd(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        gate: Array,
        bias: Array,
        rates: Array,
        skip: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int = 1,
    ) -> Array:
        heads = buf_of(dt).width
        columns = equal_parts(buf_of(x).width, heads)
        states = equal_parts(buf_of(b).width, groups)
        assert buf_of(c).width == groups * states
        assert heads % groups == 0
        vectors = {"bias": bias, "rates": rates, "skip": skip}
        for vector in vectors.values():
            assert vector.shape == (heads,)
        return self._scan(
            "heads",
            {"x": x, "dt": dt, "b": b, "c": c, "gate": gate},
            self._kept(where, name, scan_shape(states, columns, heads)),
            **{part: pointer(vector) for part, vector in vectors.items()},
            heads=heads,
            columns=columns,
            groups=groups,
            states=states,
        )

    def _scan(
        self,
        kind: str,
        rows: Mapping[str, Array],
        kept: tuple[Place, dict[str, Any]],
        **fields: Any,
    ) -> Array:
        """A kernel of `kernels/scan.py`; rows: what it reads, by the names of its arguments."""
        rec, given = self.now.recorder, {part: buf_of(value) for part, value in rows.items()}
        assert given["gate"].width == given["x"].width
        y = rec.buffer(given["x"].width)
        state, found = kept
        for part, buf in given.items():
            found |= {part: buf.slot, f"{part}_stride": buf.stride}
        rec.call(
            f"scan.{kind}",
            [*(reads(buf, ALL) for buf in given.values()), Touch(state, ALL, True), writes(y, ALL)],
            y=y.slot,
            y_stride=y.stride,
            **found,
            **fields,
        )
        return y

    def _kept(
        self, where: StateRef, name: str, shape: tuple[int, ...]
    ) -> tuple[Place, dict[str, Any]]:
        """The place of a layer's tensor, for barriers, and how a kernel finds it."""
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
