"""Packed matrices of the 8B shapes on a GPU, with random weights, and the products of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.checkpoint.random_blocks import random_rows
from rbee_worker.ops.cuda.kernels.packed.planes import WORDS, PackedPart, repack
from rbee_worker.ops.cuda.kernels.packed.product import Next, packed_product
from rbee_worker.ops.cuda.kernels.packed.product_shapes import ProductShape
from rbee_worker.ops.cuda.kernels.packed.quantize import (
    Quantized,
    empty_quantized,
    quantize_rows,
)

READ = 4.69e12  # bytes a second that the best streaming kernel reads on an H200
COLD = 4e8  # bytes of weights in turn
CUDA = torch.device("cuda")
RNG = np.random.default_rng()
SHAPES = {  # name -> rows of a matrix (gates and ups have a matrix each), columns
    "qkv": (6144, 4096),
    "v": (1024, 4096),
    "o": (4096, 4096),
    "gate_up": (14336, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
ADDED = ("o", "down")  # their result is added to the stream and quantized for the next norm


def rows_of(form: str, rows: int, cols: int) -> tuple[Tensor, Packed]:
    """Random rows on the device, and a few of them that repeat."""
    few = min(rows, 256)
    data = random_rows(RNG, form, few, cols)
    raw = torch.from_numpy(data).to(CUDA).repeat(-(-rows // few), 1)[:rows].contiguous()
    return raw, Packed(data, form, (few, cols))


def part_of(form: str, rows: int, cols: int) -> PackedPart:
    return repack(rows_of(form, rows, cols)[0], form, rows, cols)


def copies_of(part: PackedPart) -> list[PackedPart]:
    """As many copies as do not fit the cache."""
    copy = lambda t: None if t is None else t.clone()  # noqa: E731
    count = max(2, int(COLD / part.nbytes) + 1)
    return [replace(part, data=part.data.clone(), block=copy(part.block)) for _ in range(count)]


def exact(q: Quantized) -> Tensor:
    values = q.values.double().view(len(q.values), -1, 32) * q.scale.double()[..., None]
    x = values.flatten(1)[:, : q.cols]
    if q.squares is not None:
        x = x * torch.rsqrt(q.squares.double().sum(1, keepdim=True) / q.cols + q.eps)
    return x


def far(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


Pair = tuple[PackedPart, PackedPart | None]  # a matrix; or gates, and ups
Run = Callable[[ProductShape | None], None]


def _launch(
    pair: Pair, name: str, q: Quantized, out: Tensor, to: Quantized, shape: ProductShape | None
) -> None:
    """The product as a decoding step has it."""
    part, up = pair
    if up is not None:
        packed_product(q, part, up=up, gated="silu", after=Next(to), shape=shape, pdl=True)
    elif name in ADDED:
        packed_product(q, part, out, residual=out, after=Next(to), shape=shape, pdl=True)
    else:
        packed_product(q, part, out, shape=shape, pdl=True)


def _around(name: str, n: int) -> tuple[Quantized, Tensor, Quantized]:
    """Activations, the result, the next activations."""
    rows, cols = SHAPES[name]
    q = empty_quantized(n, cols, CUDA, norm_eps=None if name in ADDED else 1e-5)
    out = torch.zeros((n, rows), dtype=torch.bfloat16, device=CUDA)
    return q, out, empty_quantized(n, rows, CUDA, norm_eps=1e-5 if name in ADDED else None)


def case(form: str, name: str, n: int) -> tuple[Run, float, int]:
    """Launches over all copies of a matrix, bytes of one, and the number of copies."""
    rows, cols = SHAPES[name]
    gated = name == "gate_up"
    copies = copies_of(part_of(form, rows * (2 if gated else 1), cols))
    _, out, to = _around(name, n)
    norm = None if name in ADDED else (torch.ones(cols, device=CUDA), 1e-5)
    q = quantize_rows(torch.randn(n, cols, device=CUDA), norm)
    pairs: list[Pair] = [(whole, None) for whole in copies]
    if gated:
        pairs = [(w.row_range(0, rows), w.row_range(rows, 2 * rows)) for w in copies]

    def run(shape: ProductShape | None) -> None:
        for pair in pairs:
            _launch(pair, name, q, out, to, shape)

    return run, copies[0].nbytes, len(copies)


def compile_case(form: str, name: str, n: int, shape: ProductShape | None = None) -> None:
    """Launch with tensors of the right shapes that hold nothing."""
    rows, cols = SHAPES[name]
    make = partial(torch.empty, dtype=torch.int32, device=CUDA)
    block = make((rows // 32, cols // 256, 32)) if FORMATS[form].block == 256 else None
    part = PackedPart(make((rows // 32, cols // 64, WORDS[form], 32)), block, form, rows, cols)
    q, out, to = _around(name, n)
    _launch((part, part if name == "gate_up" else None), name, q, out, to, shape)
