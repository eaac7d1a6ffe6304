"""Compiles the attention kernels for an H100 where there is no GPU; run by `test_compiles`.

The interpreter runs what the compiler refuses: branches and loops that leave a name with tensors of
two shapes, for example.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from rbee_worker.ops.cuda.kernels.attention.attend import attend
from rbee_worker.ops.cuda.kernels.attention.attend_decode import attend_decode
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles
from rbee_worker.ops.cuda.kernels.attention.write import split_rope_write, write_kv
from rbee_worker.ops.cuda.kernels.workspace import Workspace

BF16 = torch.bfloat16


class Driver:
    """As much of a driver as compiling needs."""

    def get_current_target(self) -> GPUTarget:
        """Compute capability 9.0, warps of 32 threads."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """There is one."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Nothing is launched."""
        return 0


def cache(heads: int, dim: int, dtype: torch.dtype = BF16) -> Tensor:
    """[2 blocks, 16, heads, dim]"""
    return torch.zeros((2, heads, 16, dim), dtype=dtype).transpose(1, 2)


def ints(*shape: int) -> Tensor:
    """Table entries, lengths, positions, slots."""
    return torch.zeros(shape, dtype=torch.int64)


def launches() -> Iterator[tuple[str, partial[Any]]]:
    """A name and a call for each kernel and its main variants."""
    workspace = Workspace("cpu")
    every = {"window": 100, "softcap": 9.0, "slopes": torch.ones(6), "sinks": torch.ones(6)}
    for rows, splits in ((1, 1), (1, 16), (300, 1), (300, 2)):
        tiles = Tiles(16 if rows == 1 else 64, 32, splits, 1, 2, 4)
        yield (
            f"attend, {rows} rows, {splits} splits",
            partial(
                attend,
                torch.zeros((rows + (rows > 1), 6 * 80), dtype=BF16),
                cache(2, 80),
                cache(2, 80),
                ints(1 + (rows > 1), 64).int(),
                ints(2 + (rows > 1)),
                ints(1 + (rows > 1)),
                ints(rows + (rows > 1)),
                workspace=workspace,
                longest_rows=rows,
                longest_keys=1024,
                heads=6,
                scale=0.1,
                pdl=True,
                single=tiles._replace(BM=16),
                several=tiles,
                **(every if splits > 1 else {}),
            ),
        )
    for rows, causal in ((1, True), (300, False)):
        yield (
            f"attend, distances, {rows} rows",
            partial(
                attend,
                torch.zeros((rows, 6 * 64), dtype=BF16),
                cache(6, 64),
                cache(6, 64),
                ints(1, 64).int(),
                ints(2),
                ints(1),
                ints(rows),
                workspace=workspace,
                longest_rows=rows,
                longest_keys=1024,
                heads=6,
                scale=1.0,
                distances=torch.zeros(6 * (2 * 143 + 1)),
                causal=causal,
                pdl=True,
            ),
        )
    yield (
        "attend, latent",
        partial(
            attend, torch.zeros((1, 16 * 96), dtype=BF16), cache(1, 96), None, ints(1, 64).int(),
            ints(2), ints(1), ints(1), workspace=workspace, longest_rows=1, longest_keys=4096,
            heads=16, scale=0.1, values=64, pdl=True,
        ),
    )  # fmt: skip
    packed = torch.zeros((1, 10 * 80), dtype=BF16)
    before: dict[str, Any] = {
        "rope_dim": 64,
        "q_norm": torch.ones(80),
        "k_norm": torch.ones(80),
        "pdl": True,
    }
    for stages, dtype, options in ((0, BF16, {}), (1, torch.float8_e4m3fn, every), (2, BF16, {})):
        yield (
            f"attend_decode, {stages} stages",
            partial(
                attend_decode, packed, cache(2, 80, dtype), cache(2, 80, dtype),
                ints(1, 64).int(), ints(1), ints(1), torch.zeros((1, 64)), workspace=workspace,
                longest_keys=1024, heads=6, kv_heads=2, k_dim=80, scale=0.1,
                tiles=Tiles(16, 32, 32, 1, stages, 4), **before, **options,
            ),
        )  # fmt: skip
    yield (
        "split_rope_write",
        partial(
            split_rope_write, packed, cache(2, 80), cache(2, 80), ints(1), torch.zeros((1, 64)),
            heads=6, keys=torch.zeros((1, 160), dtype=BF16), **before,
        ),
    )  # fmt: skip
    k = packed[:, :160]
    yield "write_kv", partial(write_kv, k, k, cache(2, 80), cache(2, 80), ints(1), pdl=True)
    yield "write_kv, keys", partial(write_kv, k, None, cache(2, 80), None, ints(1), pdl=True)


def compile_all(calls: Iterator[tuple[str, partial[Any]]]) -> None:
    """Compile what each call launches, and print its name; the first failure ends it."""
    triton.runtime.driver.set_active(Driver())
    run = JITFunction.run

    def dry(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    JITFunction.run = dry
    for name, call in calls:
        call()
        sys.stdout.write(f"compiled: {name}\n")


if __name__ == "__main__":
    compile_all(launches())
