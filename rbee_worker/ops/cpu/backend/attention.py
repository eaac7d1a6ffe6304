"""Attention of the cpu backend: what is recorded for `Ops.attend`."""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.runtime.recorder import ALL, ROWS, Buf, Touch, reads, writes
from rbee_worker.ops.cpu.runtime.recording import (
    RecordingOps,
    buf_of,
    equal_parts,
    pointer,
    slot_of,
)
from rbee_worker.ops.cpu.shared import attend_items, paged, step
from rbee_worker.ops.cpu.shared.regions import Place, Region
from rbee_worker.state.specs import CrossKV, PagedKV, StateRef


class AttentionOps(RecordingOps):
    """The part of `CpuOps` with attention."""

    def attend(
        self,
        q: Array,
        k: Array | None,
        v: Array | None,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        slopes: Array | None = None,
        sinks: Array | None = None,
        distances: Array | None = None,
        causal: bool = True,
    ) -> Array:
        now, rec = self.now, self.now.recorder
        spec = now.groups[where.group].spec
        assert isinstance(spec, PagedKV)
        assert causal or (chunk is None and slopes is None)
        assert distances is None or slopes is None
        query = buf_of(q, heads * spec.k_dim)
        width = spec.v_dim
        if not width:
            assert v is not None
            width = equal_parts(buf_of(v).width, spec.heads)
        cache = Place(where.layer, where.layer + 1, f"state {where.group}")
        shape: dict[str, Any] = {"layer": where.layer, "k_dim": spec.k_dim, "block": now.block_size}
        if k is not None:
            key = buf_of(k, spec.heads * spec.k_dim)
            value = key
            if spec.v_dim:
                assert v is not None
                value = buf_of(v, spec.heads * spec.v_dim)
            self._write(key, value, where, spec, cache, shape)
        tile = paged.tiling(heads, spec.heads)
        assert heads % spec.heads == 0
        scratch_bytes = -(-paged.scratch_bytes(tile, spec.k_dim, width) // 64) * 64
        partial_bytes = paged.partial_bytes(width)
        units = attend_items.most_split_units(tile, spec.heads, self.team.threads)
        spans = attend_items.most_spans(now.longest)
        scratch = rec.region(self.team.threads * scratch_bytes)
        partial = rec.region(units * spans * tile.rows * tile.heads * partial_bytes)
        lens = step.group_at(where.group) + step.LENS
        source = lens if isinstance(spec, CrossKV) else 0
        items = self._items(heads, spec.heads, tile, _window(window, chunk), causal, source)
        # with one row, it is known whether spans are dealt to threads, and each thread may fold all
        split = spec.heads * tile.chunks < 2 * self.team.threads
        private = rec.replicates(heads * width) and split
        y = rec.buffer(heads * width, private=private)
        common: dict[str, Any] = {
            "items": slot_of(items),
            "y": y.slot,
            "y_stride": y.stride,
            "width": width,
            "rows": tile.rows,
            "chunk": tile.heads,
            "sinks": pointer(sinks),
            "scratch": slot_of(scratch),
            "scratch_bytes": scratch_bytes,
            "partial": slot_of(partial),
            "partial_bytes": partial_bytes,
        }
        rec.call(
            _attend_name(now.kv, spec.v_dim),
            [
                reads(query, ALL),
                Touch(cache, ALL, False),
                Touch(items.place, ALL, False),
                Touch(scratch.place, ALL, True),
                Touch(partial.place, ALL, True),
                *([] if private else [writes(y, ALL)]),
            ],
            q=query.slot,
            q_stride=query.stride,
            group=step.group_at(where.group),
            scale=scale,
            kv_heads=spec.heads,
            window=_window(window, chunk),
            causal=int(causal),
            cap=softcap or 0.0,
            slopes=pointer(slopes),
            distances=pointer(distances),
            reach=0 if distances is None else distances.size // heads // 2,
            lens=lens,
            **shape,
            **common,
        )
        if rec.rows > 1 or split:
            if private:
                scratch = rec.region(scratch_bytes, private=True)
                common["scratch"] = slot_of(scratch)
            rec.call(
                "attend.combine",
                [
                    Touch(items.place, ALL, False),
                    Touch(partial.place, ALL, False),
                    Touch(scratch.place, ALL, True),
                    writes(y, ROWS),
                ],
                latent=int(spec.v_dim == 0),
                **common,
            )
        return y

    def keep(self, k: Array, v: Array, where: StateRef, batch: Batch) -> None:
        now = self.now
        spec = now.groups[where.group].spec
        assert isinstance(spec, PagedKV)
        key, value = buf_of(k, spec.heads * spec.k_dim), buf_of(v, spec.heads * spec.v_dim)
        cache = Place(where.layer, where.layer + 1, f"state {where.group}")
        shape = {"layer": where.layer, "k_dim": spec.k_dim, "block": now.block_size}
        self._write(key, value, where, spec, cache, shape)

    def _items(
        self,
        heads: int,
        kv_heads: int,
        tile: paged.Tiling,
        window: int,
        causal: bool,
        source: int,
    ) -> Region:
        """The step's list of work items, written by the first layer with these attention shapes.

        source: where the header has the numbers of keys, if these are a source's, else 0."""
        now, rec, threads = self.now, self.now.recorder, self.team.threads
        key = heads, kv_heads, window, causal, source
        if key not in now.attend_items:
            nbytes = attend_items.list_bytes(rec.rows, tile, kv_heads, threads, now.longest)
            items = now.attend_items[key] = rec.region(nbytes)
            rec.call(
                "attend.plan",
                [Touch(items.place, ALL, True)],
                items=slot_of(items),
                heads=heads,
                kv_heads=kv_heads,
                rows=tile.rows,
                chunk=tile.heads,
                threads=threads,
                window=window,
                causal=int(causal),
                lens=source or step.KV_LENS,
            )
        return now.attend_items[key]

    def _write(
        self,
        key: Buf,
        value: Buf,
        where: StateRef,
        spec: PagedKV,
        cache: Place,
        shape: dict[str, Any],
    ) -> None:
        """This step's keys and values into the cache."""
        rec = self.now.recorder
        spread = rec.rows == 1  # otherwise one thread would have the only row
        share = ALL if spread else ROWS
        rec.call(
            f"kv.{self.now.kv}",
            [reads(key, share), reads(value, share), Touch(cache, share, True)],
            spread=int(spread),
            k=key.slot,
            k_stride=key.stride,
            v=value.slot,
            v_stride=value.stride,
            group=step.group_at(where.group),
            heads=spec.heads,
            v_dim=spec.v_dim,
            **shape,
        )


def _window(window: int | None, chunk: int | None) -> int:
    """The kernels' form: 0 for no window, a negative number for a chunked mask."""
    assert window is None or chunk is None
    return window or -(chunk or 0)


def _attend_name(kv: str, v_dim: int) -> str:
    if v_dim >= paged.KEYS:
        return f"attend.{kv}"
    return f"attend.{kv}-{v_dim or 'latent'}"
