"""`CpuOps`: the vocabulary of ops, recorded instead of computed.

While a `CpuModel` records, activations are `Buf` handles and every call appends entries to the
recorder. Shapes are checked here, once; the kernels check nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rbee_worker.checkpoint.decoding import as_floats, decode
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.errors import UsageError
from rbee_worker.ops import RopeSpec, Weight
from rbee_worker.ops.adapted import Sites
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.backend.adapters import AdapterOps
from rbee_worker.ops.cpu.backend.attention import AttentionOps
from rbee_worker.ops.cpu.backend.columns import ColumnOps
from rbee_worker.ops.cpu.backend.experts import ExpertOps
from rbee_worker.ops.cpu.backend.gated_delta import GatedDeltaOps
from rbee_worker.ops.cpu.backend.norms import NormOps
from rbee_worker.ops.cpu.backend.rg_lru import RgLruOps
from rbee_worker.ops.cpu.backend.sampling import CpuSampling
from rbee_worker.ops.cpu.backend.taylor import TaylorOps
from rbee_worker.ops.cpu.backend.wkv import WkvOps
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.matrix import Holder, Matrix
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.recorder import ALL, ROWS, Buf, Touch, cells, reads, writes
from rbee_worker.ops.cpu.runtime.recording import (
    Recording,
    buf_of,
    equal_parts,
    slot_of,
)
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import forms, paged, step
from rbee_worker.ops.cpu.shared.forms import (
    B16,
    B16_TAKES,
    BYTES,
    CELL,
    TOKENS,
    UNIT,
    at_once,
    natural,
    variant,
)
from rbee_worker.ops.cpu.shared.held import Held
from rbee_worker.ops.cpu.shared.isa import bf16_ending
from rbee_worker.ops.cpu.shared.pieces import FEW, MANY, ticket
from rbee_worker.ops.cpu.shared.reading import Reading


class CpuOps(
    AttentionOps,
    ExpertOps,
    ColumnOps,
    NormOps,
    RgLruOps,
    GatedDeltaOps,
    TaylorOps,
    WkvOps,
    AdapterOps,
):
    """See `Ops`. exact: float32 activations in products with packed weights, not int8. bf16:
    bfloat16 activations in products with bf16 weights, but for experts' and logits. readings: how
    kernels read weights, by name."""

    name = "cpu"
    device = "cpu"
    dtype = "f32"

    def __init__(
        self,
        library: Library,
        team: Team,
        *,
        exact: bool = False,
        bf16: bool = False,
        arena: Arena | None = None,
        readings: Mapping[str, Reading] | None = None,
        sites: Sites | None = None,
    ) -> None:
        self.readings = readings or {}
        self.library, self.team, self.sites = library, team, sites
        self.arena = Arena() if arena is None else arena
        self.holder = Holder(library, team, self.arena)
        self.exact, self.bf16 = exact, bf16
        self.recording: Recording | None = None

    def sampling(self, vocab_size: int) -> CpuSampling:
        """See `Ops.sampling`: on the team's threads."""
        return CpuSampling(self.library, self.team, vocab_size)

    # ---- weights

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        matrix = self.holder.hold(parts)
        formats = "+".join(dict.fromkeys(p.format for p in parts))
        return Weight(matrix, matrix.rows, matrix.cols, formats, matrix.formats, matrix.nbytes)

    def vector(self, parts: Sequence[Packed]) -> Array:
        values = [decode(p).reshape(-1) for p in parts]
        count = sum(map(len, values))
        padded = np.zeros(-(-count // 16) * 16 + 16, np.float32)  # kernels read whole SIMD vectors
        np.concatenate(values, out=padded[:count])
        return padded[:count]

    def floats(self, packed: Packed) -> Packed:
        return as_floats(packed, threads=self.team.threads)

    def weights_done(self) -> None:
        self.holder.done()

    # ---- dense

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Array:
        (part,) = table.data.parts  # a table is one tensor
        blocks = -(-table.cols // CELL)
        y = self._result(blocks * CELL).columns(0, table.cols)  # the kernel writes whole cells
        self.now.recorder.call(
            f"embed.{part.held.name}",
            [writes(y, cells(blocks))],
            w=part.data,
            cols=table.cols,
            scale=scale,
            ids=step.TOKENS // 8,
            count=step.N // 8,
            y=y.slot,
            y_stride=y.stride,
            rows=table.rows,
        )
        return y

    def with_features(self, x: Array, batch: Batch) -> Array:
        rows = buf_of(x)
        self.now.recorder.call(
            "embed.features",
            [reads(rows), writes(rows)],
            y=rows.slot,
            y_stride=rows.stride,
            cols=rows.width,
        )
        return rows

    def linear(
        self, x: Array, weight: Weight, bias: Array | None = None, *, precise: bool = False
    ) -> Array:
        return self.product(x, weight, bias, lambda held: self._form(held, precise))

    def logits(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        return self.product(x, weight, bias, lambda held: forms.precise(self._natural(held)))

    def product(
        self, x: Array, weight: Weight, bias: Array | None, form: Callable[[Held], str]
    ) -> Array:
        """x times a matrix. form: of the activations, by how weights are held."""
        rec, source = self.now.recorder, buf_of(x, weight.cols)
        matrix: Matrix = weight.data
        y = rec.buffer(weight.rows)
        for part in matrix.parts:
            taken = form(part.held)
            ready = self._prepare(source, taken)
            few, many = (p.number(part.groups, rec.threads) for p in (FEW, MANY))
            kernel = f"linear.{variant(part.held, taken)}"
            if taken == B16:
                kernel += bf16_ending()
            rec.call(
                kernel,
                [Touch(ready.place, ALL, False), writes(y, ALL)],
                product=part,
                dealt=part.groups - few * FEW.size,
                w=part.data,
                x=slot_of(ready),
                y=y.columns(part.first, part.rows).slot,
                bias=0 if bias is None else bias[part.first :],
                cols=weight.cols,
                rows=part.rows,
                stride=y.stride,
                count=step.N // 8,
                **self._reading(kernel),
                ticket=ticket() if few or many else 0,
                few=few,
                many=many,
            )
        return y

    def _form(self, held: Held, precise: bool) -> str:
        if self.bf16 and held.name == B16_TAKES:
            return B16
        form = self._natural(held)
        return forms.precise(form) if precise else form

    def _natural(self, held: Held) -> str:
        return "exact" if self.exact else natural(held)

    def _prepare(self, x: Buf, form: str) -> Any:
        """x in the form that products take; made once, however many products use it."""
        if form not in x.ready:
            rec = self.now.recorder
            blocks = -(-x.width // CELL)
            tokens, private = -(-rec.rows // TOKENS) * TOKENS, rec.replicates(x.width)
            x.ready[form] = rec.region(tokens * blocks * BYTES[form], private=private)
            per = at_once(form)
            if x.made == ROWS:
                per = blocks
            elif x.made == cells(x.width // UNIT) and x.width % UNIT == 0:
                per = UNIT // CELL
            share = cells(blocks // per)
            rec.call(
                f"prepare.{form}",
                [reads(x, share), Touch(x.ready[form].place, share, True)],
                x=x.slot,
                stride=x.stride,
                cols=x.width,
                out=slot_of(x.ready[form]),
                count=step.N // 8,
                per=per,
            )
        return x.ready[form]

    # ---- positions and attention

    def rope(self, x: Array, spec: RopeSpec, batch: Batch, *, heads: int) -> Array:
        source, now = buf_of(x), self.now
        width = equal_parts(source.width, heads)
        assert 0 < spec.dim <= width
        assert spec.dim % 2 == 0
        if spec not in now.ropes:
            now.ropes.append(spec)
        y = self._result(source.width)
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
        return y


def check_block_size(block_size: int) -> None:
    """Raise UsageError unless a block holds whole groups of keys."""
    if block_size % paged.KEYS or paged.SPAN % block_size:
        raise UsageError(
            f"--block-size {block_size} cannot be used by the cpu backend.",
            fix=f"use a multiple of {paged.KEYS} that divides {paged.SPAN}.",
        )
