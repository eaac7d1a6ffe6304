"""Tile shapes, found by measuring on an H200; the last row of each table is a default for the rest.

What a row's result depends on besides its own sequence: `BN`, `splits` and `min_tiles`, through the
order of its sums.
"""

from __future__ import annotations

from typing import NamedTuple

from rbee_worker.ops.cuda.kernels.attention.columns import power_of_two


class Tiles(NamedTuple):
    """BM query rows (times heads of a group) and BN keys per tile; how its keys are split.

    stages: see `walk`.
    """

    BM: int
    BN: int
    splits: int
    min_tiles: int
    stages: int
    warps: int


def decode_tiles(
    *, batch: int, kv_heads: int, group: int, dims: int, element: int, longest_keys: int
) -> Tiles:
    """Tiles for sequences with one row each; dims: columns of a key and of its own value.

    element: bytes of a number in products. Depends on longest_keys and the batch, never on the
    sequences' lengths, so that it may be captured in a graph. For results that do not depend on the
    batch, pass batch 1 and the same longest_keys everywhere.
    """
    BM = min(64, max(16, power_of_two(group)))
    programs = batch * kv_heads * -(-group // BM)
    if element == 4:
        BN, warps, stages = (32, 8, 1) if dims <= 256 else (16, 8, 1)
    elif dims <= 256:
        BN, warps, stages = (32, 2, 0) if longest_keys <= 1024 else (64, 4, 0)
    elif dims <= 512:
        BN, warps, stages = 32, 4, 0
    else:
        BN, warps, stages = 32, 8, 2
    if BM > 16:
        warps = max(warps, 4)
    splits = 1
    while splits < 32 and programs * splits < 264 and longest_keys > splits * BN:
        splits *= 2
    return Tiles(BM, BN, splits, 1 if programs < 64 else 2, stages, warps)


def prefill_tiles(*, group: int, rows: int, dims: int, element: int) -> Tiles:
    """Tiles for sequences with several rows, the longest having `rows`. BN, which decides the order
    of sums, depends on the model only."""
    if element == 4:
        BN, BM, warps, stages = (32, 32, 8, 1) if dims <= 256 else (16, 16, 4, 1)
    elif dims <= 256:
        BN, BM, warps, stages = 64, 128, 8, 3
    elif dims <= 512:
        BN, BM, warps, stages = 64, 128, 8, 2
    else:
        BN, BM, warps, stages = 32, 64, 8, 2
    needed = max(16, power_of_two(rows * group))
    if needed < BM:
        BM, warps = needed, 4
    return Tiles(BM, BN, 1, 1, stages, warps)
