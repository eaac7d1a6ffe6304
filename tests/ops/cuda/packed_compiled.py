"""Compiles the kernels of packed weights for an H100 without a GPU: for `test_packed_compiles`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.ops.cuda.kernels.packed.dequantize import READABLE, dequantize
from rbee_worker.ops.cuda.kernels.packed.planes import HELD_AS, WORDS, PackedPart
from rbee_worker.ops.cuda.kernels.packed.product import Next, packed_product
from rbee_worker.ops.cuda.kernels.packed.quantize import empty_quantized, quantize_rows
from tests.ops.cuda.attention.compiled import compile_all

BF16, CPU = torch.bfloat16, torch.device("cpu")


def part(name: str, rows: int, cols: int) -> PackedPart:
    """Planes that hold nothing."""
    data = torch.zeros((-(-rows // 32), -(-cols // 64), WORDS[name], 32), dtype=torch.int32)
    block = torch.zeros((-(-rows // 32), cols // 256, 32), dtype=torch.int32)
    return PackedPart(data, block if FORMATS[name].block == 256 else None, name, rows, cols)


def launches() -> Iterator[tuple[str, partial[Any]]]:
    """A name and a call for each format and each way to launch."""
    for name in sorted(READABLE - {"F32", "F16", "BF16", "F64"}):
        form = FORMATS[name]
        raw = torch.zeros((8, 1024 // form.block * form.bytes), dtype=torch.uint8)
        out = torch.empty((8, 1024), dtype=BF16)
        yield f"values of {name}", partial(dequantize, raw, name, 8, 1024, out)
    x, norm = torch.zeros((1, 1024), dtype=BF16), (torch.ones(1024), 1e-5)
    yield "blocks", partial(quantize_rows, x, norm, pdl=True)
    yield "gated blocks", partial(quantize_rows, x, gated="gelu_tanh", pdl=True)
    for name in sorted(WORDS.keys() - HELD_AS.keys()):
        plain = partial(
            packed_product, empty_quantized(1, 1024, CPU), part(name, 64, 1024),
            torch.empty((1, 64), dtype=BF16), pdl=True,
        )  # fmt: skip
        yield f"product in {name}", plain
    for rows in (1, 2, 4, 8):
        normed = empty_quantized(rows, 4096, CPU, norm_eps=1e-5)
        middle = empty_quantized(rows, 96, CPU)
        gate, bias = part("Q4_K", 96, 4096), torch.zeros(96)
        yield (
            f"gates and ups, {rows} rows",
            partial(
                packed_product, normed, gate, up=gate, gated="silu", bias=bias, up_bias=bias,
                after=Next(middle), pdl=True,
            ),
        )  # fmt: skip
        down = part("Q8_0", 4096, 96)
        stream = torch.empty((rows, 4096), dtype=BF16)
        yield (
            f"down, {rows} rows",
            partial(
                packed_product, middle, down, stream, residual=stream,
                after=Next(normed, torch.ones(4096)), pdl=True,
            ),
        )  # fmt: skip


if __name__ == "__main__":
    compile_all(launches())
