"""Which experts a row uses, and with which weights: `Ops.route` in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops import Routing
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.order import NOTHING, placed, ranked


@triton.jit
def _route(
    logits, bias, scales, ids, weights, stride, jitter, factor, floor, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, TOP: tl.constexpr, KEEP: tl.constexpr, BEST_TWO: tl.constexpr,
    SCORE: tl.constexpr, NORMALISE: tl.constexpr, BIAS: tl.constexpr, SCALES: tl.constexpr,
    GP: tl.constexpr, SP: tl.constexpr, AT_ONCE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program a row. A row's experts lie in GP groups of SP places, of which GROUPS and SIZE
    are used. AT_ONCE: all experts are compared with all, which is less work in a row but more in
    all than to find one after another."""
    if PDL:
        gdc_launch_dependents()
    i = tl.arange(0, GP * SP)
    group, member = i // SP, i % SP
    valid = (group < GROUPS) & (member < SIZE)
    e = group * SIZE + member
    added, by = 0.0, 1.0
    if BIAS:
        added = tl.load(bias + e, mask=valid, other=0.0)
    if SCALES:
        by = tl.load(scales + e, mask=valid, other=0.0)
    if PDL:
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(logits + row * stride + e, mask=valid, other=float("-inf")).to(tl.float32)
    taken = e < 0
    if SCORE == "sparsemixer":
        scores = tl.zeros([GP * SP], tl.float32)
        for _ in tl.static_range(2):
            one = i == placed(tl.max(ranked(x, i, valid & ~taken), 0))
            top = tl.sum(tl.where(one, x, 0.0), 0)
            far = (top - x) / tl.maximum(tl.abs(x), top) > 2 * jitter
            near = tl.exp(x - top)
            total = tl.sum(tl.where(valid & ~taken & ~far, near, 0.0), 0)
            scores = tl.where(one, 1.0 / total, scores)
            taken = taken | one
    else:
        if SCORE == "softmax":
            p = tl.where(valid, tl.exp(x - tl.max(x, 0)), 0.0)
            scores = p / tl.sum(p, 0)
        else:
            scores = tl.where(valid, 1.0 / (1.0 + tl.exp(-x)), 0.0)
        choice = x
        if BIAS:
            choice = scores + added
        elif GROUPS > 1:
            choice = scores
        if GROUPS > 1:
            g, j = tl.arange(0, GP), tl.arange(0, SP)
            table = tl.reshape(choice, [GP, SP])
            inside = tl.reshape(valid, [GP, SP])
            keys = ranked(table, j[None, :], inside)
            first = tl.max(keys, 1)
            best = j[None, :] == placed(first)[:, None]
            worth = tl.sum(tl.where(best, table, 0.0), 1)
            if BEST_TWO:
                second = tl.max(tl.where(best, NOTHING, keys), 1)
                also = j[None, :] == placed(second)[:, None]
                worth += tl.sum(tl.where(also, table, 0.0), 1)
            kept = g < 0
            for _ in tl.static_range(KEEP):
                kept = kept | (g == placed(tl.max(ranked(worth, g, (g < GROUPS) & ~kept), 0)))
            closed = tl.broadcast_to(~kept[:, None], [GP, SP])
            choice = tl.where(tl.reshape(closed, [GP * SP]), float("-inf"), choice)
        keys = ranked(choice, i, valid)
        if AT_ONCE:
            better = (keys[None, :] > keys[:, None]).to(tl.int32)
            taken = valid & (tl.sum(better, 1) < TOP)
        else:
            for _ in tl.static_range(TOP):
                one = i == placed(tl.max(keys, 0))
                taken = taken | one
                keys = tl.where(one, NOTHING, keys)
    w = scores
    if NORMALISE:
        w = w / (tl.sum(tl.where(taken, scores, 0.0), 0) + floor)
    w = w * factor
    if SCALES:
        w = w * by
    at = row * TOP + tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(ids + at, e, mask=taken)
    tl.store(weights + at, w, mask=taken)


def route(
    logits: Tensor,
    routing: Routing,
    bias: Tensor | None = None,
    scales: Tensor | None = None,
    *,
    fixed: bool = False,
    pdl: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `Ops.route`: logits [N, experts] -> ids int32 and weights float32, both [N, top_k].

    A row depends on its own logits, and the last bit of its weights on whether there are more than
    64 rows: its sums then have another order. fixed: they have one. A row of nan chooses some
    experts, with weights of nan.
    """
    n, count = logits.shape
    r = routing
    assert count % r.groups == 0
    assert r.top_k <= count
    assert r.score != "sparsemixer" or (r.top_k == 2 and bias is None)
    ids = torch.empty((n, r.top_k), dtype=torch.int32, device=logits.device)
    weights = torch.empty((n, r.top_k), dtype=torch.float32, device=logits.device)
    size = count // r.groups
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    few = n <= 64 and not fixed
    at_once = few and r.top_k > 2 and power_of_two(r.groups) * power_of_two(size) <= 128
    if n:
        _route[(n,)](
            logits, bias, scales, ids, weights, logits.stride(0), r.jitter, r.scale, r.floor,
            SIZE=size, GROUPS=r.groups, TOP=r.top_k, KEEP=r.top_groups,
            BEST_TWO=r.group_score != "best", SCORE=r.score, NORMALISE=r.normalise,
            BIAS=bias is not None, SCALES=scales is not None, GP=power_of_two(r.groups),
            SP=power_of_two(size), AT_ONCE=at_once,
            num_warps=4 if at_once else 1 if count <= 256 else 2, **dependent(pdl),
        )  # fmt: skip
    return ids, weights
