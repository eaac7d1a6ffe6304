"""Keys and values into the paged cache, and queries, keys and values out of the packed projection:
what precedes attention where it is not part of it."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.attention.columns import Columns, columns
from rbee_worker.ops.cuda.kernels.attention.fold import load_columns, store_columns
from rbee_worker.ops.cuda.kernels.attention.heads import (
    Packing,
    load_heads,
    turn_and_norm,
)

ROWS = 16  # rows of one head that a program handles


@triton.jit
def cache_rows(cache, slots, row, some, block, inner, BLOCK: tl.constexpr):
    """Pointers [R, 1] to the places of rows in one head's cache."""
    slot = tl.load(slots + row, mask=some, other=0)
    return (cache + (slot // BLOCK) * block + (slot % BLOCK) * inner)[:, None]


@triton.jit
def copy_head(
    source, cache, slots, row, inside, block, inner,
    BLOCK: tl.constexpr, DIM: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
):  # fmt: skip
    """One head of rows (`source`: pointers to their columns) to its cache, as it is."""
    to = cache_rows(cache, slots, row, inside, block, inner, BLOCK)
    some = inside[:, None]
    columns = source[:, None]
    store_columns(to, some, load_columns(columns, some, 0, D0, DIM), 0, D0, DIM)
    if D1 > 0:
        store_columns(to, some, load_columns(columns, some, D0, D1, DIM), D0, D1, DIM)


@triton.jit(do_not_specialize=["count"])
def write_heads(
    k, v, k_cache, v_cache, slots,
    count, k_from, v_from, k_block, k_row, k_head, v_block, v_row, v_head,
    KV_HEADS: tl.constexpr, BLOCK: tl.constexpr, R: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of R rows, heads of k, then of v if there is one); k_from, v_from: strides of
    their rows."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    head = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64)
    inside = row < count
    if head < KV_HEADS:
        source = k + row * k_from + head * K_DIM
        to = k_cache + head * k_head
        copy_head(source, to, slots, row, inside, k_block, k_row, BLOCK, K_DIM, K0, K1)
    elif V_DIM > 0:
        h = head - KV_HEADS
        source = v + row * v_from + h * V_DIM
        to = v_cache + h * v_head
        copy_head(source, to, slots, row, inside, v_block, v_row, BLOCK, V_DIM, V0, V1)


@triton.jit(do_not_specialize=["count"])
def split_heads(
    qkv, q, keys, k, v, slots, angles, q_norm, k_norm,
    count, x_row, angles_row, k_block, k_row, k_head, v_block, v_row, v_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr, R: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr,
    K_AT: tl.constexpr, V_AT: tl.constexpr,
    Q_STEP: tl.constexpr, K_STEP: tl.constexpr, V_STEP: tl.constexpr,
    ROPE: tl.constexpr, INTERLEAVED: tl.constexpr, Q_NORM: tl.constexpr, K_NORM: tl.constexpr,
    KEEP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of R rows, HEADS + 2 * KV_HEADS): a program has one query, key or value head.
    KEEP: keys go to `keys` too."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    head = tl.program_id(1)
    row = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64)
    inside = row < count
    some = inside[:, None]
    source = qkv + row * x_row
    turned = angles
    if ROPE > 0:
        turned = (angles + row * angles_row)[:, None]
    if head < HEADS:
        group: tl.constexpr = HEADS // KV_HEADS
        at = (source + (head // group) * Q_STEP + (head % group) * K_DIM)[:, None]
        x0, x1 = load_heads(
            at, some, turned, some, q_norm, eps, K_DIM, K0, K1, ROPE, INTERLEAVED, Q_NORM
        )  # fmt: skip
        to = (q + row * (HEADS * K_DIM) + head * K_DIM)[:, None]
        store_columns(to, some, x0, 0, K0, K_DIM)
        if K1 > 0:
            store_columns(to, some, x1, K0, K1, K_DIM)
    elif head < HEADS + KV_HEADS:
        h = head - HEADS
        at = (source + K_AT + h * K_STEP)[:, None]
        x0, x1 = load_heads(
            at, some, turned, some, k_norm, eps, K_DIM, K0, K1, ROPE, INTERLEAVED, K_NORM
        )  # fmt: skip
        if KEEP:
            kept = (keys + row * (KV_HEADS * K_DIM) + h * K_DIM)[:, None]
            store_columns(kept, some, x0, 0, K0, K_DIM)
            if K1 > 0:
                store_columns(kept, some, x1, K0, K1, K_DIM)
        to = cache_rows(k + h.to(tl.int64) * k_head, slots, row, inside, k_block, k_row, BLOCK)
        store_columns(to, some, x0, 0, K0, K_DIM)
        if K1 > 0:
            store_columns(to, some, x1, K0, K1, K_DIM)
    else:
        h = head - HEADS - KV_HEADS
        values = v + h.to(tl.int64) * v_head
        source += V_AT + h * V_STEP
        copy_head(source, values, slots, row, inside, v_block, v_row, BLOCK, V_DIM, V0, V1)


def write_kv(
    k: Tensor,
    v: Tensor | None,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    pdl: bool = False,
) -> None:
    """k [N, kv_heads * k_dim] and v [N, kv_heads * v_dim] to the caches [blocks, block_size,
    kv_heads, dim], rounded to their type. slots int64 [N]: block * block_size + offset. v None:
    the state stores no values."""
    count = k.shape[0]
    _, block_size, kv_heads, k_dim = k_cache.shape
    assert k.shape[1] == kv_heads * k_dim
    assert k.stride(1) == k_cache.stride(3) == 1
    v_dim, k_parts, v_parts = 0, columns(k_dim), Columns(0, 0, 0)
    v_strides: tuple[int, ...] = (0, 0, 0)
    if v is not None:
        assert v_cache is not None
        v_dim = v_cache.shape[3]
        v_parts, v_strides = columns(v_dim), v_cache.stride()[:3]
        assert v.shape[1] == kv_heads * v_dim
        assert v.stride(1) == v_cache.stride(3) == 1
    if count == 0:
        return
    write_heads[(-(-count // ROWS), kv_heads * (1 if v is None else 2))](
        k,
        v,
        k_cache,
        v_cache,
        slots,
        count,
        k.stride(0),
        0 if v is None else v.stride(0),
        *k_cache.stride()[:3],
        *v_strides,
        KV_HEADS=kv_heads,
        BLOCK=block_size,
        R=ROWS,
        K_DIM=k_dim,
        K0=k_parts.first,
        K1=k_parts.second,
        V_DIM=v_dim,
        V0=v_parts.first,
        V1=v_parts.second,
        PDL=pdl,
        num_warps=4,
        launch_pdl=pdl,
    )


def split_rope_write(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    angles: Tensor | None,
    *,
    heads: int,
    rope_dim: int = 0,
    interleaved: bool = False,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    by_group: bool = False,
    keys: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    """Cut qkv [N, heads * k_dim + kv_heads * (k_dim + v_dim)], normalise and rotate queries and
    keys, write keys and values to the caches at `slots`; returns the queries [N, heads * k_dim].

    angles: float32 [N, rope_dim], the cosines of rope_dim / 2 angles, then their sines (None and 0:
    no positions). The first rope_dim columns of a head rotate. interleaved: in pairs (0, 1), (2, 3)
    ... instead of (0, rope_dim / 2), (1, rope_dim / 2 + 1) ... q_norm, k_norm: float32 [k_dim],
    weights of RMS norms of each head before it rotates. by_group: q, k and v of each group are
    adjacent. keys [N, kv_heads * k_dim]: the keys are also stored here (for `attend_prompts`). Rows
    are independent of each other.
    """
    count = qkv.shape[0]
    block_size, kv_heads, k_dim = k_cache.shape[1:]
    v_dim = v_cache.shape[3]
    packing = Packing.of(heads // kv_heads, kv_heads, k_dim, v_dim, by_group=by_group)
    assert qkv.shape[1] == packing.width
    assert qkv.stride(1) == k_cache.stride(3) == v_cache.stride(3) == 1
    assert keys is None or keys.is_contiguous()
    q = torch.empty((count, heads * k_dim), dtype=qkv.dtype, device=qkv.device)
    if count == 0:
        return q
    k_parts, v_parts = columns(k_dim), columns(v_dim)
    more: dict[str, Any] = packing.arguments() | turn_and_norm(
        angles,
        rope_dim=rope_dim,
        interleaved=interleaved,
        q_norm=q_norm,
        k_norm=k_norm,
        eps=eps,
    )
    split_heads[(-(-count // ROWS), heads + 2 * kv_heads)](
        qkv,
        q,
        keys,
        k_cache,
        v_cache,
        slots,
        count=count,
        x_row=qkv.stride(0),
        k_block=k_cache.stride(0),
        k_row=k_cache.stride(1),
        k_head=k_cache.stride(2),
        v_block=v_cache.stride(0),
        v_row=v_cache.stride(1),
        v_head=v_cache.stride(2),
        HEADS=heads,
        KV_HEADS=kv_heads,
        BLOCK=block_size,
        R=ROWS,
        K_DIM=k_dim,
        K0=k_parts.first,
        K1=k_parts.second,
        V_DIM=v_dim,
        V0=v_parts.first,
        V1=v_parts.second,
        KEEP=keys is not None,
        PDL=pdl,
        num_warps=4,
        launch_pdl=pdl,
        **more,
    )
    return q
