"""`CpuOps`: the vocabulary of ops, recorded instead of computed.

While a `CpuModel` records, activations are `Buf` handles and every call appends entries to the
recorder. An operation without a kernel falls back to `reference` and is listed. Shapes are checked
here, once; the kernels check nothing.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.errors import UnsupportedModel, UsageError
from rbee_worker.ops import Activation, Ops, RopeSpec, Weight
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu import paged, step
from rbee_worker.ops.cpu.arena import Arena
from rbee_worker.ops.cpu.fallback import fall_back
from rbee_worker.ops.cpu.matrix import Matrix, hold
from rbee_worker.ops.cpu.native import Library
from rbee_worker.ops.cpu.program import (
    ALL,
    ROWS,
    Buf,
    Place,
    Recorder,
    Touch,
    cells,
    reads,
    writes,
)
from rbee_worker.ops.cpu.team import Team
from rbee_worker.ops.cpu.vocabulary import NATIVE
from rbee_worker.ops.dequant import dequantize
from rbee_worker.ops.reference import ReferenceOps
from rbee_worker.state.specs import PagedKV, StateGroup, StateRef

CELL = 32  # columns of a cell, and of a block of prepared activations
TOKENS = 8  # tokens whose prepared activations lie together
PREPARED = {"i8": 64, "exact": 144}  # bytes of a token's block


@dataclass
class Recording:
    """What a model is recorded for: its state, how that is kept, how many threads will share."""

    recorder: Recorder
    groups: tuple[StateGroup, ...]
    kv: str  # dtype of keys and values
    block_size: int
    longest: int  # tokens of a sequence
    ropes: list[RopeSpec]
    probe: Batch  # one row of a sequence that is nobody's


class CpuOps(Ops):
    """See `Ops`. exact: float32 activations in products with packed weights, not int8."""

    name = "cpu"
    device = "cpu"
    dtype = "f32"

    def __init__(
        self, library: Library, team: Team, *, exact: bool = False, arena: Arena | None = None
    ) -> None:
        self.library, self.team = library, team
        self.arena = Arena() if arena is None else arena
        self.exact = exact
        self.reference = ReferenceOps("cpu", "f32")
        self.recording: Recording | None = None

    @property
    def now(self) -> Recording:
        """The recording under way."""
        assert self.recording is not None, "operations of this backend are only recorded"
        return self.recording

    # ---- weights

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        matrix = hold(self.library, self.team, self.arena, parts)
        formats = "+".join(dict.fromkeys(p.format for p in parts))
        return Weight(matrix, matrix.rows, matrix.cols, formats, matrix.formats, matrix.nbytes)

    def vector(self, parts: Sequence[Packed]) -> Tensor:
        values = torch.cat([dequantize(p).reshape(-1) for p in parts])
        padded = torch.zeros(-(-len(values) // 16) * 16 + 16)  # kernels read whole vectors
        padded[: len(values)] = values
        return padded[: len(values)]

    # ---- dense

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Tensor:
        (part, *more) = table.data.parts
        if table.cols % CELL or more:
            return cast(Tensor, fall_back(self, "embed", table, batch, scale=scale))
        y = self.now.recorder.buffer(table.cols)
        self.now.recorder.call(
            f"embed.{part.held.name}",
            [writes(y, cells(table.cols // CELL))],
            w=part.data,
            cols=table.cols,
            scale=scale,
            ids=step.TOKENS // 8,
            count=step.N // 8,
            y=y.slot,
            rows=table.rows,
        )
        return _tensor(y)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        rec, source = self.now.recorder, _buf(x, weight.cols)
        matrix: Matrix = weight.data
        y = rec.buffer(weight.rows)
        for part in matrix.parts:
            form = "exact" if self.exact or part.held.is_float else "i8"
            ready = self._prepare(source, form)
            variant = f"{part.held.name}{'-exact' if self.exact and not part.held.is_float else ''}"
            rec.call(
                f"linear.{variant}",
                [Touch(ready.place, ALL, False), writes(y, ALL)],
                w=part.data,
                x=_slot(ready),
                y=y.columns(part.first, part.rows).slot,
                bias=0 if bias is None else bias[part.first :],
                cols=weight.cols,
                rows=part.rows,
                stride=y.stride,
                count=step.N // 8,
            )
        return _tensor(y)

    def _prepare(self, x: Buf, form: str) -> Any:
        """x as products want it; made once however many products share it."""
        if form not in x.ready:
            rec = self.now.recorder
            blocks = -(-x.width // CELL)
            tokens = -(-rec.rows // TOKENS) * TOKENS
            x.ready[form] = rec.region(tokens * blocks * PREPARED[form])
            share = ROWS if x.made == ROWS else cells(blocks)
            rec.call(
                f"prepare.{form}",
                [reads(x, share), Touch(x.ready[form].place, share, True)],
                x=x.slot,
                stride=x.stride,
                cols=x.width,
                out=_slot(x.ready[form]),
                count=step.N // 8,
                per=blocks if share == ROWS else 1,
            )
        return x.ready[form]

    def logits(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return self.linear(x, weight, bias)

    def split(self, x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
        source, first, out = _buf(x, sum(widths)), 0, []
        for width in widths:
            out.append(_tensor(source.columns(first, width)))
            first += width
        return tuple(out)

    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        raise UnsupportedModel(
            "a model that picks rows inside its forward pass cannot be recorded.",
            fix="use --backend reference.",
        )

    # ---- norms

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, heads: int = 1) -> Tensor:
        return self._norm("norm.rms", x, eps, heads, weight=_pointer(weight))

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, heads: int = 1
    ) -> Tensor:
        return self._norm("norm.layer", x, eps, heads, weight=_pointer(weight), bias=_pointer(bias))

    def _norm(self, kernel: str, x: Tensor, eps: float, heads: int, **vectors: Any) -> Tensor:
        source = _buf(x)
        width = _part(source.width, heads)
        for vector in vectors.values():
            assert isinstance(vector, int) or vector.numel() == width
        y = self.now.recorder.buffer(source.width)
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
        return _tensor(y)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        a, b = _buf(x), _buf(residual, _buf(x).width)
        rec = self.now.recorder
        y, total = rec.buffer(a.width), rec.buffer(a.width)
        rec.call(
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
            weight=_pointer(weight),
            eps=eps,
            width=a.width,
        )
        return _tensor(y), _tensor(total)

    # ---- elementwise

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return _tensor(self._two("add", _buf(x), _buf(y, _buf(x).width), by_rows=True))

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return _tensor(self._one("scale", _buf(x), factor, by_rows=_buf(x).width < 4096))

    def act(self, x: Tensor, kind: Activation) -> Tensor:
        return _tensor(self._one(f"act-{kind}", _buf(x), 0.0))

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return _tensor(self._one("softcap", _buf(x), cap))

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        both = _buf(gate_up)
        half = _part(both.width, 2)
        gate, up = both.columns(0, half), both.columns(half, half)
        return _tensor(self._two(f"gated-{kind}", gate, up))

    def _one(self, kind: str, x: Buf, a: float, *, by_rows: bool = False) -> Buf:
        y = self.now.recorder.buffer(x.width)
        cell = x.width if by_rows else CELL
        share = cells(-(-x.width // cell))
        self.now.recorder.call(
            f"each.{kind}",
            [reads(x, share if x.is_whole or by_rows else ALL), writes(y, share)],
            x=x.slot,
            x_stride=x.stride,
            y=y.slot,
            y_stride=y.stride,
            width=x.width,
            cell=cell,
            a=a,
        )
        return y

    def _two(self, kind: str, x: Buf, z: Buf, *, by_rows: bool = False) -> Buf:
        y = self.now.recorder.buffer(x.width)
        cell = x.width if by_rows else CELL
        share = cells(-(-x.width // cell))
        self.now.recorder.call(
            f"each.{kind}",
            [
                reads(x, share if x.is_whole or by_rows else ALL),
                reads(z, share if z.is_whole or by_rows else ALL),
                writes(y, share),
            ],
            x=x.slot,
            x_stride=x.stride,
            z=z.slot,
            z_stride=z.stride,
            y=y.slot,
            y_stride=y.stride,
            width=x.width,
            cell=cell,
        )
        return y

    # ---- positions and attention

    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        source, now = _buf(x), self.now
        width = _part(source.width, heads)
        assert 0 < spec.dim <= width
        assert spec.dim % 2 == 0
        if spec not in now.ropes:
            now.ropes.append(spec)
        y = now.recorder.buffer(source.width)
        now.recorder.call(
            f"rope.{'pairs' if spec.interleaved else 'half'}",
            [reads(source), writes(y)],
            x=source.slot,
            x_stride=source.stride,
            y=y.slot,
            y_stride=y.stride,
            heads=heads,
            width=width,
            dim=spec.dim,
            table=step.rope_at(now.ropes.index(spec), len(now.groups)),
        )
        return _tensor(y)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        slopes: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.attend`. slopes, sinks: float32 [heads]; a score gets slope * (key's position -
        query's), and one more score, `sink`, whose value is zero."""
        now, rec = self.now, self.now.recorder
        spec = now.groups[where.group].spec
        assert isinstance(spec, PagedKV)
        query, key = _buf(q, heads * spec.k_dim), _buf(k, spec.heads * spec.k_dim)
        value = _buf(v, spec.heads * spec.v_dim) if spec.v_dim else key
        width = spec.v_dim or _latent_width(v)
        _part(heads, spec.heads)
        cache = Place(where.layer, where.layer + 1, f"state {where.group}")
        shape = {"layer": where.layer, "k_dim": spec.k_dim, "block": now.block_size}
        rec.call(
            f"kv.{now.kv}",
            [reads(key), reads(value), Touch(cache, ROWS, True)],
            k=key.slot,
            k_stride=key.stride,
            v=value.slot,
            v_stride=value.stride,
            group=step.group_at(where.group),
            heads=spec.heads,
            v_dim=spec.v_dim,
            **shape,
        )
        tile = paged.tiling(heads, spec.heads)
        scratch_bytes = -(-paged.scratch_bytes(tile, spec.k_dim, width) // 64) * 64
        partial_bytes = paged.partial_bytes(width)
        units = 2 * self.team.threads + spec.heads * tile.chunks
        spans = -(-now.longest // paged.SPAN) + 1
        scratch = rec.region(self.team.threads * scratch_bytes)
        partial = rec.region(units * spans * tile.rows * tile.heads * partial_bytes)
        y = rec.buffer(heads * width)
        common = {
            "y": y.slot,
            "y_stride": y.stride,
            "heads": heads,
            "kv_heads": spec.heads,
            "width": width,
            "rows": tile.rows,
            "chunk": tile.heads,
            "window": window or 0,
            "sinks": _pointer(sinks),
            "scratch": _slot(scratch),
            "scratch_bytes": scratch_bytes,
            "partial": _slot(partial),
            "partial_bytes": partial_bytes,
        }
        rec.call(
            _attend_name(now.kv, spec.v_dim),
            [
                reads(query, ALL),
                Touch(cache, ALL, False),
                Touch(scratch.place, ALL, True),
                Touch(partial.place, ALL, True),
                writes(y, ALL),
            ],
            q=query.slot,
            q_stride=query.stride,
            group=step.group_at(where.group),
            scale=scale,
            cap=softcap or 0.0,
            slopes=_pointer(slopes),
            **shape,
            **common,
        )
        rec.call(
            "attend.combine",
            [
                Touch(partial.place, ALL, False),
                Touch(scratch.place, ALL, True),
                writes(y, ROWS),
            ],
            latent=int(spec.v_dim == 0),
            **common,
        )
        return _tensor(y)


def _tensor(buf: Buf) -> Tensor:
    """Models pass activations around without looking; here they are handles."""
    return cast(Tensor, buf)


def _buf(x: Tensor, width: int | None = None) -> Buf:
    buf = cast(Buf, x)
    assert isinstance(buf, Buf), "an activation of another backend"
    assert width is None or buf.width == width, f"{buf.width} columns, expected {width}"
    return buf


def _slot(region: Any) -> Any:
    return Buf(region, 0, 0).slot


def _pointer(vector: Tensor | None) -> Any:
    return 0 if vector is None else vector


def _part(width: int, parts: int) -> int:
    assert width % parts == 0, f"{width} columns do not make {parts} equal parts"
    return width // parts


def _attend_name(kv: str, v_dim: int) -> str:
    if v_dim >= paged.KEYS:
        return f"attend.{kv}"
    return f"attend.{kv}-{v_dim or 'latent'}"


def _latent_width(v: Tensor) -> int:
    """Values that are the first columns of the keys: how many."""
    return _buf(v).width


def check_block_size(block_size: int) -> None:
    """Raises UsageError unless blocks hold whole groups of keys."""
    if block_size % paged.KEYS or paged.SPAN % block_size:
        raise UsageError(
            f"--block-size {block_size} cannot be used by the cpu backend.",
            fix=f"use a multiple of {paged.KEYS} that divides {paged.SPAN}.",
        )


def _complete() -> None:
    """Operations that have no method here fall back; `rows` cannot even do that."""
    assert CpuOps.__abstractmethods__ == Ops.__abstractmethods__ - NATIVE - {"rows"}
    for name in CpuOps.__abstractmethods__:

        def method(self: CpuOps, *args: Any, _name: str = name, **named: Any) -> Any:
            return fall_back(self, _name, *args, **named)

        setattr(CpuOps, name, method)
    abc.update_abstractmethods(CpuOps)


_complete()
