"""A walk over the tiles of keys that a tile of queries sees."""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.attention.fold import (
    fold,
    load_blocks,
    load_tile,
    raw_scores,
    seen_keys,
)


@triton.jit
def use_tile(
    top, total, acc0, acc1, q0, q1, k0, k1, v0, v1, slope, at, upto, key, length,
    factor, scale, cap, cap_scale, window, chunk, reach,
    K1: tl.constexpr, V1: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    CHUNK: tl.constexpr, CAP: tl.constexpr, SLOPES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Fold one tile of keys and values, at positions `key`, into the rows' softmax; see `fold`."""
    behind = key[None, :] - at[:, None]
    x = raw_scores(q0, q1, k0, k1, slope, behind, scale, cap, cap_scale, reach, K1, CAP, SLOPES)
    if MASKED:
        seen = seen_keys(
            at[:, None], upto[:, None], key[None, :], length, window, chunk, CAUSAL, WINDOW, CHUNK
        )
        x = tl.where(seen, x, float("-inf"))
    return fold(top, total, acc0, acc1, x, factor, v0, v1, V1)


@triton.jit
def first_tile(
    k, v, table, begin, end, low, high, k_block, k_row, v_block, v_row,
    BN: tl.constexpr, BLOCK: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, LATENT: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """What `walk_on` starts with: tile `begin` (see `load_tile`) and the blocks of the next one."""
    key = begin * BN + tl.arange(0, BN)
    high = tl.minimum(high, end * BN)
    valid = (key >= low) & (key < high)
    blocks = load_blocks(table, key, valid, BLOCK)
    next_blocks = load_blocks(table, key + BN, key + BN < high, BLOCK)
    k0, k1, v0, v1 = load_tile(
        k, v, blocks, key, valid, k_block, k_row, v_block, v_row,
        BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT, DOT,
    )  # fmt: skip
    return k0, k1, v0, v1, next_blocks


@triton.jit
def walk_on(
    top, total, acc0, acc1, q0, q1, k0, k1, v0, v1, blocks, slope, at, upto, begin, end,
    k, v, table, low, high, length,
    k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, window, chunk, reach,
    BN: tl.constexpr, BLOCK: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, LATENT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    CAP: tl.constexpr, SLOPES: tl.constexpr, MASKED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`walk` with its first tile and the second one's blocks loaded. EARLY: while a tile is used,
    the next one and the blocks of the one after it are on their way; otherwise only the blocks."""
    key = begin * BN + tl.arange(0, BN)
    high = tl.minimum(high, end * BN)
    for _ in range(begin, end):
        later = key + BN
        valid = (later >= low) & (later < high)
        next_k0, next_k1, next_v0, next_v1 = k0, k1, v0, v1
        if EARLY:
            next_k0, next_k1, next_v0, next_v1 = load_tile(
                k, v, blocks, later, valid, k_block, k_row, v_block, v_row,
                BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT, q0.dtype,
            )  # fmt: skip
            blocks = load_blocks(table, later + BN, later + BN < high, BLOCK)
        top, total, acc0, acc1 = use_tile(
            top, total, acc0, acc1, q0, q1, k0, k1, v0, v1, slope, at, upto, key, length,
            factor, scale, cap, cap_scale, window, chunk, reach,
            K1, V1, CAUSAL, WINDOW, CHUNK, CAP, SLOPES, MASKED,
        )  # fmt: skip
        if EARLY:
            k0 = next_k0
            k1 = next_k1
            v0 = next_v0
            v1 = next_v1
        else:
            k0, k1, v0, v1 = load_tile(
                k, v, blocks, later, valid, k_block, k_row, v_block, v_row,
                BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT, q0.dtype,
            )  # fmt: skip
            blocks = load_blocks(table, later + BN, later + BN < high, BLOCK)
        key = later
    return top, total, acc0, acc1


@triton.jit
def walk(
    top, total, acc0, acc1, q0, q1, slope, at, upto, begin, end,
    k, v, table, low, high, length,
    k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, window, chunk, reach,
    BN: tl.constexpr, BLOCK: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, LATENT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    CAP: tl.constexpr, SLOPES: tl.constexpr, MASKED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Fold the key tiles begin .. end into the rows' softmax.

    Only keys low .. high are read: others may be another sequence's, or leftovers, even NaN.
    MASKED False: all rows see all keys. STAGES 0: tiles are loaded into registers, each before the
    one before it is used; 1: after that; more: the loop is pipelined through shared memory.
    """
    if STAGES <= 1:
        k0, k1, v0, v1, blocks = first_tile(
            k, v, table, begin, end, low, high, k_block, k_row, v_block, v_row,
            BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT, q0.dtype,
        )  # fmt: skip
        top, total, acc0, acc1 = walk_on(
            top, total, acc0, acc1, q0, q1, k0, k1, v0, v1, blocks, slope, at, upto, begin, end,
            k, v, table, low, high, length,
            k_block, k_row, v_block, v_row, factor, scale, cap, cap_scale, window, chunk, reach,
            BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT,
            CAUSAL, WINDOW, CHUNK, CAP, SLOPES, MASKED, STAGES == 0,
        )  # fmt: skip
    else:
        for tile in tl.range(begin, end, num_stages=STAGES):
            key = tile * BN + tl.arange(0, BN)
            valid = (key >= low) & (key < high)
            blocks = load_blocks(table, key, valid, BLOCK)
            k0, k1, v0, v1 = load_tile(
                k, v, blocks, key, valid, k_block, k_row, v_block, v_row,
                BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT, q0.dtype,
            )  # fmt: skip
            top, total, acc0, acc1 = use_tile(
                top, total, acc0, acc1, q0, q1, k0, k1, v0, v1, slope, at, upto, key, length,
                factor, scale, cap, cap_scale, window, chunk, reach,
                K1, V1, CAUSAL, WINDOW, CHUNK, CAP, SLOPES, MASKED,
            )  # fmt: skip
    return top, total, acc0, acc1
