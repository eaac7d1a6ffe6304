"""The kernel of `attend_decode`: one new token per sequence, from the packed projection to the
result of attention, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.attention.fold import load_columns, lowest_seen
from rbee_worker.ops.cuda.kernels.attention.heads import load_heads
from rbee_worker.ops.cuda.kernels.attention.rows import finish
from rbee_worker.ops.cuda.kernels.attention.walk import first_tile, walk, walk_on


@triton.jit
def new_token(
    qkv_row, k, v, q0, q1, angles, k_norm, slot, h, stores,
    k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, eps,
    BM: tl.constexpr, BLOCK: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr,
    K_AT: tl.constexpr, V_AT: tl.constexpr, K_STEP: tl.constexpr, V_STEP: tl.constexpr,
    ROPE: tl.constexpr, INTERLEAVED: tl.constexpr, K_NORM: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """The softmax of a row that has seen only the new key and value, which go to the cache if
    `stores`; they count as they will be read from there. See `fold`."""
    one = tl.arange(0, 1)[:, None]
    always = one == 0
    key0, key1 = load_heads(
        qkv_row + K_AT + h * K_STEP + one, always, angles, always, k_norm, eps,
        K_DIM, K0, K1, ROPE, INTERLEAVED, K_NORM,
    )  # fmt: skip
    values = qkv_row + V_AT + h * V_STEP + one
    held = k.dtype.element_ty
    key0 = key0.to(held)
    value0 = load_columns(values, always, 0, V0, V_DIM).to(v.dtype.element_ty)
    block = slot // BLOCK
    inside = slot % BLOCK
    k_to = k + block * k_block + inside * k_row
    v_to = v + block * v_block + inside * v_row
    k_end = tl.where(stores, K_DIM, 0)  # Triton 3.9 interprets no mask with a scalar in it
    v_end = tl.where(stores, V_DIM, 0)
    column = tl.arange(0, K0)[None, :]
    tl.store(k_to + column, key0, mask=column < k_end)
    column = tl.arange(0, V0)[None, :]
    tl.store(v_to + column, value0, mask=column < v_end)
    x = tl.sum(q0.to(tl.float32) * key0.to(q0.dtype).to(tl.float32), 1)
    if K1 > 0:
        key1 = key1.to(held)
        column = K0 + tl.arange(0, K1)[None, :]
        tl.store(k_to + column, key1, mask=column < k_end)
        x += tl.sum(q1.to(tl.float32) * key1.to(q0.dtype).to(tl.float32), 1)
    if CAP:
        x = cap * (1.0 - 2.0 / (tl.exp(x * cap_scale) + 1.0))
    acc0 = tl.zeros([BM, V0], tl.float32) + value0.to(q0.dtype).to(tl.float32)
    acc1 = 0
    if V1 > 0:
        value1 = load_columns(values, always, V0, V1, V_DIM).to(v.dtype.element_ty)
        column = V0 + tl.arange(0, V1)[None, :]
        tl.store(v_to + column, value1, mask=column < v_end)
        acc1 = tl.zeros([BM, V1], tl.float32) + value1.to(q0.dtype).to(tl.float32)
    return x, acc0, acc1


@triton.jit(do_not_specialize=["table_row", "window", "chunk", "reach"])
def attend_new(
    qkv, k, v, table, kv_lens, slots, angles, q_norm, k_norm, slopes, sinks,
    out, partial, extremes, counters,
    qkv_row, k_block, k_row, k_head, v_block, v_row, v_head, table_row, angles_row,
    factor, scale, cap, cap_scale, window, chunk, reach, eps,
    HEADS: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, LATENT: tl.constexpr,
    K_AT: tl.constexpr, V_AT: tl.constexpr,
    Q_STEP: tl.constexpr, K_STEP: tl.constexpr, V_STEP: tl.constexpr,
    ROPE: tl.constexpr, INTERLEAVED: tl.constexpr, Q_NORM: tl.constexpr, K_NORM: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, CAP: tl.constexpr,
    SLOPES: tl.constexpr, SINKS: tl.constexpr,
    SPLITS: tl.constexpr, MIN_TILES: tl.constexpr, COMBINE: tl.constexpr,
    TOGETHER: tl.constexpr, AT_ONCE: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (sequences * parts of a group, kv_heads, SPLITS); tensors as in `attend_decode`.

    Old keys are loaded before the wait. The program of the last live split ropes and stores the new
    key and value, and counts them in from registers: nothing in this launch reads what it writes.
    """
    if PDL:
        gdc_launch_dependents()
    parts: tl.constexpr = (G + BM - 1) // BM
    b = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    h = tl.program_id(1)
    split = tl.program_id(2)
    n = tl.load(kv_lens + b).to(tl.int32) - 1  # old keys; the new one's position
    slot = tl.load(slots + b).to(tl.int64)
    low = lowest_seen(n, window, chunk, WINDOW, CHUNK)
    first = low // BN
    last = tl.cdiv(n, BN)
    each = tl.maximum(tl.cdiv(last - first, SPLITS), MIN_TILES)
    active = tl.maximum(tl.cdiv(last - first, each), 1)
    begin = first + split * each
    end = tl.minimum(begin + each, last)
    k_pages = k + h.to(tl.int64) * k_head
    v_pages = v + h.to(tl.int64) * v_head
    pages = table + b.to(tl.int64) * table_row
    dot: tl.constexpr = qkv.dtype.element_ty
    k0 = 0
    k1 = 0
    v0 = 0
    v1 = 0
    blocks = 0
    if STAGES <= 1:
        k0, k1, v0, v1, blocks = first_tile(
            k_pages, v_pages, pages, begin, end, low, n, k_block, k_row, v_block, v_row,
            BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, False, dot,
        )  # fmt: skip
    if PDL:
        gdc_wait()
    g = part * BM + tl.arange(0, BM)
    real = g < G
    head = h * G + g
    row = (b + g * 0).to(tl.int64)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc0 = tl.zeros([BM, V0], tl.float32)
    acc1 = 0
    if V1 > 0:
        acc1 = tl.zeros([BM, V1], tl.float32)
    if split < active:
        own = qkv + b.to(tl.int64) * qkv_row
        turned = angles
        if ROPE > 0:
            turned = angles + b.to(tl.int64) * angles_row + tl.zeros([1, 1], tl.int32)
        q0, q1 = load_heads(
            (own + h * Q_STEP + g * K_DIM)[:, None], real[:, None],
            turned, tl.arange(0, 1)[:, None] == 0, q_norm, eps,
            K_DIM, K0, K1, ROPE, INTERLEAVED, Q_NORM,
        )  # fmt: skip
        slope = top
        if SLOPES:
            slope = tl.load(slopes + head, mask=real, other=0.0)
        if split == active - 1:
            x, acc0, acc1 = new_token(
                own, k_pages, v_pages, q0, q1, turned, k_norm, slot, h, part == 0,
                k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, eps,
                BM, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, K_AT, V_AT, K_STEP, V_STEP,
                ROPE, INTERLEAVED, K_NORM, CAP,
            )  # fmt: skip
            if SLOPES and not CAP:
                x = x * scale
            top = x * factor
            total = total + 1.0
        at = n + tl.arange(0, 1)  # of all rows
        if STAGES <= 1:
            top, total, acc0, acc1 = walk_on(
                top, total, acc0, acc1, q0, q1, k0, k1, v0, v1, blocks, slope, at, at, begin,
                end,
                k_pages, v_pages, pages, low, n, n,
                k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, window, chunk, reach,
                BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, False,
                True, WINDOW, CHUNK, CAP, SLOPES, True, STAGES == 0,
            )  # fmt: skip
        else:
            top, total, acc0, acc1 = walk(
                top, total, acc0, acc1, q0, q1, slope, at, at, begin, end,
                k_pages, v_pages, pages, low, n, n,
                k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, window, chunk, reach,
                BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, False,
                True, WINDOW, CHUNK, CAP, SLOPES, True, STAGES,
            )  # fmt: skip
    finish(
        top, total, acc0, acc1, row, row, head, real, split, active,
        sinks, out, partial, extremes, counters, b, b, h,
        HEADS, G, V_DIM, V0, V1, SINKS, SPLITS, COMBINE, TOGETHER, AT_ONCE,
    )  # fmt: skip
