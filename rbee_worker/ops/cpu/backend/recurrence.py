"""Recurrent operations: what the cpu backend records for them."""

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
    """The part of `CpuOps` that updates a sequence's fixed state."""

    def linear_scan(
        self, x: Array, decay: Array, where: StateRef, name: str, batch: Batch
    ) -> Array:
        width = buf_of(decay, buf_of(x).width).width
        kept = self._kept(where, name, (width,))
        return self._in_order("scan.linear", {"x": x, "decay": decay}, kept, width=width)

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
        width = buf_of(x).width
        count = taps.size // width
        assert taps.shape == (count * width,)
        assert bias is None or bias.shape == (width,)
        return self._in_order(
            f"conv.causal-{kind}" if kind else "conv.causal",
            {"x": x},
            self._kept(where, name, (count - 1, width)),
            taps=pointer(taps),
            count=count,
            bias=pointer(bias),
            width=width,
        )

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
        assert (buf_of(c).width, buf_of(dt).width, buf_of(gate).width) == (states, width, width)
        rows = {"x": x, "dt": dt, "b": b, "c": c, "gate": gate}
        kept = self._kept(where, name, shape)
        vectors = {"rates": pointer(rates), "skip": pointer(skip)}
        return self._in_order("scan.selective", rows, kept, **vectors, width=width, states=states)

    def ssd(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        gate: Array | None,
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
        assert gate is None or buf_of(gate).width == heads * columns
        assert heads % groups == 0
        vectors = {"bias": bias, "rates": rates, "skip": skip}
        for vector in vectors.values():
            assert vector.shape == (heads,)
        return self._in_order(
            "scan.heads",
            {"x": x, "dt": dt, "b": b, "c": c, "gate": gate},
            self._kept(where, name, scan_shape(states, columns, heads)),
            **{part: pointer(vector) for part, vector in vectors.items()},
            heads=heads,
            columns=columns,
            groups=groups,
            states=states,
        )

    def _in_order(
        self,
        kernel: str,
        rows: Mapping[str, Array | None],
        kept: tuple[Place, dict[str, Any]],
        **fields: Any,
    ) -> Array:
        """Record a kernel that computes rows in order. rows: its inputs by name, x among them; the
        kernel goes without what is None."""
        rec, state, found = self.now.recorder, *kept
        given = {part: buf_of(value) for part, value in rows.items() if value is not None}
        y = rec.buffer(given["x"].width)
        for part in (part for part in rows if part not in given):
            found |= {part: pointer(None), f"{part}_stride": 0}
        for part, buf in given.items():
            found |= {part: buf.slot, f"{part}_stride": buf.stride}
        rec.call(
            kernel,
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
