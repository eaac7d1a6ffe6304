"""`CudaOps`: what models are built with: it holds weights on the device and records the rest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from rbee_worker.checkpoint.decoding import as_floats
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Weight
from rbee_worker.ops.adapted import Sites
from rbee_worker.ops.cuda.adapters import CudaAdapters
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.cuda.fixed_ops import FixedOps
from rbee_worker.ops.cuda.kept_shapes import KeptShapes
from rbee_worker.ops.cuda.kernels.block_bytes import empty_integers, write_integers
from rbee_worker.ops.cuda.kernels.packed.dequantize import dequantize
from rbee_worker.ops.cuda.kernels.packed.planes import WORDS, PackedPart, joined, repack
from rbee_worker.ops.cuda.matrix import (
    F8,
    F8_BLOCK,
    F8_BLOCKS,
    DeviceMatrix,
    DeviceStack,
    Forms,
    Raw,
    held_form,
    quantized,
    with_blocks,
)
from rbee_worker.ops.cuda.sampling import CudaSampling
from rbee_worker.ops.cuda.weight_upload import WeightUpload
from rbee_worker.ops.graph.recorder import GraphOps
from rbee_worker.ops.reference.ops import DTYPES


class CudaOps(GraphOps):
    """See `Ops`. now: the same operations, computed at once on tensors of the device."""

    name = "cuda"

    def __init__(
        self,
        device: str,
        dtype: str,
        *,
        pdl: bool = False,
        planes: bool = True,
        resident: bool = True,
        integers: bool = True,
        f8: bool = False,
        fixed: bool = False,
        sites: Sites | None = None,
        shapes: KeptShapes | None = None,
    ) -> None:
        """pdl: kernels may start before the one before has ended. planes: products of a few rows
        read packed weights as they are, with activations in 8 bits; resident, integers: packed
        matrices are kept as floats, and as 8-bit integers, too (`matrix.py`). f8: matrices of
        floats are kept in 8 bits. fixed: sums have one order (`FixedOps`); without planes. sites:
        see `Ops`. shapes: of products, as `warmup` has measured them."""
        assert not (fixed and planes)
        self.device, self.dtype, self.sites = device, dtype, sites
        self._forms = Forms(planes, resident, integers, f8)
        self.now = (FixedOps if fixed else DeviceOps)(device, dtype, pdl=pdl)
        self.now.shapes = shapes
        if sites is not None:
            self.now.loaded = CudaAdapters(sites, device, dtype)
        self.drawn = Drawn(torch.device(device))
        self._upload = WeightUpload(torch.device(device))

    def sampling(self, vocab_size: int) -> CudaSampling:
        """See `Ops.sampling`."""
        return CudaSampling(torch.device(self.device), vocab_size, self.drawn)

    @property
    def adapters(self) -> CudaAdapters:
        """See `Ops.adapters`."""
        assert self.now.loaded is not None
        return self.now.loaded

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        rows, cols = sum(p.shape[0] for p in parts), parts[0].shape[1]
        if all(p.format == F8_BLOCKS for p in parts):
            return self._in_blocks(parts, rows, cols)
        packed = self._forms.planes and all(p.format in WORDS for p in parts)
        f8 = self._forms.f8 and not any(p.format in WORDS for p in parts)
        dense = None
        if not packed or self._forms.resident:
            dense = torch.empty((rows, cols), dtype=DTYPES[self.dtype], device=self.device)
        integers = None
        if packed and self._forms.with_integers(cols):
            integers = empty_integers(rows, cols, self.device)
        planes: list[PackedPart] = []
        kept: list[Raw] = []
        at = 0
        for part in parts:
            for piece in self._upload.pieces(part):
                count = len(piece.data)
                if dense is not None:
                    target = dense[at : at + count]
                    dequantize(piece.data, part.format, count, cols, target)
                else:
                    kept.append(piece)
                if packed:
                    planes.append(repack(piece.data, part.format, count, cols))
                if integers is not None:
                    exact = torch.empty((count, cols), dtype=torch.float32, device=self.device)
                    dequantize(piece.data, part.format, count, cols, exact)
                    write_integers(exact, integers, at)
                at += count
        assert at == rows
        scales = None
        if f8 and dense is not None:
            dense, scales = quantized(dense)
        matrix = DeviceMatrix(
            rows, cols, dense, tuple(joined(planes)), _whole(kept), scales, integers
        )
        formats = "+".join(dict.fromkeys(p.format for p in parts))
        held = [self._form(part) for part in parts]
        if not packed and dense is not None:
            extra = 0 if scales is None else scales.nbytes
            held = [("f8" if f8 else self.dtype, dense.nbytes + extra)]
        return Weight(
            matrix, rows, cols, formats, "+".join(dict(held)), sum(size for _, size in held)
        )

    def _in_blocks(self, parts: Sequence[Packed], rows: int, cols: int) -> Weight:
        """A matrix that stays in 8-bit floats, with its own scales."""
        pieces = [with_blocks(raw.data) for part in parts for raw in self._upload.pieces(part)]
        dense, scales = (torch.cat(some) for some in zip(*pieces, strict=True))
        matrix = DeviceMatrix(rows, cols, dense, scales=scales)
        return Weight(matrix, rows, cols, F8_BLOCKS, "f8", dense.nbytes + scales.nbytes)

    def _form(self, part: Packed) -> tuple[str, int]:
        rows, cols = part.shape
        return held_form(part.format, rows, cols, self.dtype, self._forms)

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        first = members[0]
        rows, cols = sum(p.shape[0] for p in first), first[0].shape[1]
        shape = (len(members), rows, cols)
        if all(p.format == F8_BLOCKS for p in first):
            return self._stack_in_blocks(members, shape)
        data = torch.empty(shape, dtype=DTYPES[self.dtype], device=self.device)
        for member, parts in zip(data, members, strict=True):
            start = 0
            for part in parts:
                for piece in self._upload.pieces(part):
                    target = member[start : start + len(piece.data)]
                    dequantize(piece.data, part.format, len(piece.data), cols, target)
                    start += len(piece.data)
            assert start == rows
        formats = "+".join(dict.fromkeys(p.format for p in first))
        held = DeviceStack(data)
        return Weight(held, rows, cols, formats, self.dtype, data.nbytes, len(members))

    def _stack_in_blocks(
        self, members: Sequence[Sequence[Packed]], shape: tuple[int, int, int]
    ) -> Weight:
        """Matrices that stay in 8-bit floats, with their own scales."""
        count, rows, cols = shape
        dense = torch.empty(shape, dtype=F8, device=self.device)
        scales = torch.empty((count, rows, cols // F8_BLOCK), device=self.device)
        for values, factors, parts in zip(dense, scales, members, strict=True):
            start = 0
            for part in parts:
                for piece in self._upload.pieces(part):
                    end = start + len(piece.data)
                    values[start:end], factors[start:end] = with_blocks(piece.data)
                    start = end
            assert start == rows
        held = DeviceStack(dense, scales)
        return Weight(held, rows, cols, F8_BLOCKS, "f8", dense.nbytes + scales.nbytes, count)

    def vector(self, parts: Sequence[Packed]) -> Tensor:
        return torch.cat([self._upload.floats(part).reshape(-1) for part in parts])

    def floats(self, packed: Packed) -> Packed:
        return as_floats(packed, threads=torch.get_num_threads())

    def weights_done(self) -> None:
        self._upload.wait()


def _whole(pieces: Sequence[Raw]) -> tuple[Raw, ...]:
    """The same rows, with neighbours of one format in one tensor."""
    found: list[Raw] = []
    for format, some in groupby(pieces, key=lambda raw: raw.format):
        found.append(Raw(torch.cat([raw.data for raw in some]), format))
    return tuple(found)
