"""Pairs of a row and one of its experts, in the order of experts, and tiles of them.

Pair p belongs to row p // top_k. Equal experts stay in the order of their pairs, so the result
does not depend on timing. The host reads nothing: it knows only how many tiles there can be.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

_BLOCK = 8192  # most ids in one load


class Tiles(NamedTuple):
    """Pairs by expert, int32.

    order [pairs]: the pair at each place. Tile t has the places from first[t], up to end[t] or
    `height` of them, all of expert owner[t]; an unused tile has owner -1.
    """

    order: Tensor
    owner: Tensor
    first: Tensor
    end: Tensor
    height: int


@triton.jit
def _sort(
    ids, order, owner, first, end, pairs, HEIGHT: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One program an expert: it finds its pairs and writes its tiles.

    Expert e with `mine` pairs from place `start` has tiles from start // HEIGHT + e. This leaves
    room for those of the experts before it, and up to the next expert's first tile for its own.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    e = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    lower = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    for block in tl.range(0, pairs, BLOCK, num_stages=3):
        id_ = tl.load(ids + block + i, mask=block + i < pairs, other=0x7FFFFFFF)
        lower += (id_ < e).to(tl.int32)
        equal += (id_ == e).to(tl.int32)
    start, mine = tl.sum(lower, 0), tl.sum(equal, 0)
    place = start
    if mine > 0:
        for block in tl.range(0, pairs, BLOCK, num_stages=3):
            id_ = tl.load(ids + block + i, mask=block + i < pairs, other=0x7FFFFFFF)
            here = (id_ == e).to(tl.int32)
            tl.store(order + place + tl.cumsum(here, 0) - 1, block + i, mask=here > 0)
            place += tl.sum(here, 0)
    tile = start // HEIGHT + e
    last = (start + mine) // HEIGHT + e + 1
    for t in range(tile, last):
        begin = start + (t - tile) * HEIGHT
        tl.store(first + t, begin)
        tl.store(end + t, start + mine)
        tl.store(owner + t, tl.where(begin < start + mine, e, -1))


def sort(ids: Tensor, count: int, height: int, *, pdl: bool = False) -> Tiles:
    """Pairs by expert, in tiles of `height`. ids: int32 [N, top_k] below `count`, N at least 1."""
    pairs = ids.numel()
    empty = {"dtype": torch.int32, "device": ids.device}
    order = torch.empty(pairs, **empty)  # type: ignore[call-overload]
    table = torch.empty((3, pairs // height + count), **empty)  # type: ignore[call-overload]
    owner, first, end = table.unbind(0)
    block = min(power_of_two(pairs), _BLOCK)
    _sort[(count,)](
        ids, order, owner, first, end, pairs, HEIGHT=height, BLOCK=block,
        num_warps=max(1, min(16, block // 256)), **dependent(pdl),
    )  # fmt: skip
    return Tiles(order, owner, first, end, height)
