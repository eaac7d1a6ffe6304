"""RWKV's operations: what the cpu backend records for them."""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cpu.backend.recurrence import RecurrenceOps
from rbee_worker.ops.cpu.runtime.recorder import ALL, Buf, Touch, reads, writes
from rbee_worker.ops.cpu.runtime.recording import buf_of, equal_parts, pointer
from rbee_worker.state.specs import StateRef


class WkvOps(RecurrenceOps):
    """The part of `CpuOps` for RWKV."""

    def previous(self, x: Array, where: StateRef, name: str, batch: Batch) -> Array:
        width = buf_of(x).width
        kept = self._kept(where, name, (1, width))
        return self._in_order("wkv.previous", {"x": x}, kept, width=width)

    def lerp(self, x: Array, y: Array, factors: Array | None, moving: Array | None = None) -> Array:
        a, rec = buf_of(x), self.now.recorder
        whole = factors.size if factors is not None else buf_of(moving).width
        assert whole % a.width == 0
        given = [a, buf_of(y, a.width)]
        found: dict[str, Any] = {"moving": 0, "moving_stride": 0}
        if moving is not None:
            given.append(buf_of(moving, whole))
            found = {"moving": given[2].slot, "moving_stride": given[2].stride}
        to = rec.buffer(whole)
        rec.call(
            "wkv.lerp",
            [*(reads(buf, ALL) for buf in given), writes(to, ALL)],
            **_places(x=a, z=given[1], y=to),
            **found,
            factors=pointer(factors),
            width=a.width,
            parts=whole // a.width,
        )
        return to

    def wkv(
        self,
        r: Array,
        k: Array,
        v: Array,
        decay: Array | None,
        base: Array,
        bonus: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Array:
        rec, width = self.now.recorder, buf_of(v).width
        assert base.shape == bonus.shape == (width,)
        state, found = self._kept(where, name, _shape(width, heads))
        weights, y = rec.buffer(width), rec.buffer(width)
        moved = [] if decay is None else [buf_of(decay, width)]
        rec.call(
            "wkv.decay",
            [*(reads(buf, ALL) for buf in moved), writes(weights, ALL)],
            decay=moved[0].slot if moved else 0,
            decay_stride=moved[0].stride if moved else 0,
            base=pointer(base),
            **_places(y=weights),
            width=width,
        )
        rows = {"r": buf_of(r, width), "k": buf_of(k, width), "v": buf_of(v)}
        rec.call(
            "wkv.plain",
            [
                *(reads(buf, ALL) for buf in (*rows.values(), weights)),
                Touch(state, ALL, True),
                writes(y, ALL),
            ],
            **_places(**rows, y=y),
            w=weights.slot,
            w_stride=weights.stride if moved else 0,
            bonus=pointer(bonus),
            **found,
            heads=heads,
            size=width // heads,
        )
        return y

    def wkv_delta(
        self,
        r: Array,
        k: Array,
        v: Array,
        decay: Array,
        rate: Array,
        removal: Array,
        renewal: Array,
        bonus: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> tuple[Array, Array]:
        rec, width = self.now.recorder, buf_of(v).width
        vectors = {"removal": removal, "renewal": renewal, "bonus": bonus}
        for vector in vectors.values():
            assert vector.shape == (width,)
        state, found = self._kept(where, name, _shape(width, heads))
        given = {"r": r, "k": k, "v": v, "decay": decay, "rate": rate}
        rows = {part: buf_of(value, width) for part, value in given.items()}
        terms, y, z = rec.buffer(4 * width), rec.buffer(width), rec.buffer(width)
        sizes: dict[str, Any] = {"heads": heads, "size": width // heads, "stride": terms.stride}
        four: dict[str, Any] = {
            part: terms.columns(n * width, width).slot
            for n, part in enumerate(("w", "c", "u", "back"))
        }
        rec.call(
            "wkv.terms",
            [*(reads(buf, ALL) for buf in rows.values()), writes(terms, ALL), writes(z, ALL)],
            **_places(**rows, z=z),
            **four,
            **{part: pointer(vector) for part, vector in vectors.items()},
            **sizes,
        )
        rec.call(
            "wkv.delta",
            [
                *(reads(buf, ALL) for buf in (rows["r"], rows["v"], terms)),
                Touch(state, ALL, True),
                writes(y, ALL),
            ],
            **_places(r=rows["r"], v=rows["v"], y=y),
            **four,
            **found,
            **sizes,
        )
        return y, z


def _shape(width: int, heads: int) -> tuple[int, ...]:
    """The shape of the state of `heads` heads."""
    size = equal_parts(width, heads)
    return scan_shape(size, size, heads)


def _places(**bufs: Buf) -> dict[str, Any]:
    """Where activations are, and their strides, as a kernel's arguments."""
    return {part: buf.slot for part, buf in bufs.items()} | {
        f"{part}_stride": buf.stride for part, buf in bufs.items()
    }
