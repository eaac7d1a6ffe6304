"""Tile shapes by rules: what fills the processors, with sizes that were fast on an H200.

What a row's result depends on besides its own sequence: `BN`, `splits` and `min_tiles`, through the
order of its sums.
"""

from __future__ import annotations

from typing import NamedTuple

from rbee_worker.ops.cuda.kernels.attention.columns import power_of_two

PROCESSORS = 132  # of an H100 or H200


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
        few = programs < PROCESSORS and longest_keys > 1024
        BN, warps, stages = (64, 4, 0) if few else (32, 2, 0)
        if programs > 8 * PROCESSORS:  # more than twice what runs at once: registers count
            stages = 2
    elif dims <= 512:
        BN, warps, stages = 32, 4, 0
    else:
        BN, warps, stages = 32, 8, 2
    if BM > 16:
        warps = max(warps, 4)
    resident = PROCESSORS * max(1, 8 // warps)  # programs that run at once
    splits = 1
    while splits < 32 and programs * splits * 2 <= resident and longest_keys > splits * BN:
        splits *= 2
    return Tiles(BM, BN, splits, 1 if programs < PROCESSORS // 2 else 2, stages, warps)


def prefill_tiles(
    *,
    rows: int,
    longest_rows: int,
    kv_heads: int,
    group: int,
    dims: int,
    element: int,
    longest_keys: int,
    invariant: bool,
) -> Tiles:
    """Tiles for sequences with several rows, `rows` together and at most longest_rows each.

    A few rows after many keys would occupy a few processors, so their keys are split; not if
    `invariant`, because then the order of sums (BN and splits) depends on the model only.
    """
    if element == 4:
        BN, BM, warps, stages = (32, 32, 8, 1) if dims <= 256 else (16, 16, 4, 1)
    elif dims <= 256:
        BN, BM, warps, stages = 64, 128, 8, 3
    elif dims <= 512:
        BN, BM, warps, stages = 64, 128, 8, 2
    else:
        BN, BM, warps, stages = 32, 64, 8, 2
    needed = max(16, power_of_two(longest_rows * group))
    if needed < BM:
        BM, warps = needed, 4
    splits = 1
    programs = -(-rows * group // BM) * kv_heads
    while not invariant and splits < 16 and programs * splits <= PROCESSORS:
        if longest_keys < 512 * splits:
            break
        splits *= 2
    return Tiles(BM, BN, splits, 4, stages, warps)


def fixed_tiles(*, dims: int, element: int) -> Tiles:
    """Tiles for every sequence and step, so that a row's sums have one order: the order of sums
    within a tile may follow from its height and warps, and no keys are split."""
    if element == 4:
        return Tiles(32, 32, 1, 1, 1, 8) if dims <= 256 else Tiles(16, 16, 1, 1, 1, 4)
    if dims <= 256:
        return Tiles(64, 64, 1, 1, 3, 4)
    return Tiles(64, 64, 1, 1, 2, 8) if dims <= 512 else Tiles(64, 32, 1, 1, 2, 8)
