"""Decoding in one launch: from the packed projection of one new token per sequence to the result of
attention, with the new keys and values written to the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.attention.columns import Parts
from rbee_worker.ops.cuda.kernels.attention.decode import attend_new
from rbee_worker.ops.cuda.kernels.attention.heads import Packing, turn_and_norm
from rbee_worker.ops.cuda.kernels.attention.scratch import Scratch
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles, decode_tiles
from rbee_worker.ops.cuda.kernels.attention.sight import Sight
from rbee_worker.ops.cuda.kernels.workspace import Workspace


def attend_decode(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    table: Tensor,
    kv_lens: Tensor,
    slots: Tensor,
    angles: Tensor | None,
    *,
    workspace: Workspace,
    longest_keys: int,
    heads: int,
    kv_heads: int,
    k_dim: int,
    scale: float,
    rope_dim: int = 0,
    interleaved: bool = False,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    by_group: bool = False,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    invariant: bool = False,
    pdl: bool = False,
    tiles: Tiles | None = None,
) -> Tensor:
    """`split_rope_write` and `attend` of one row per sequence: [B, heads * v_dim], qkv's type.

    qkv [B, heads * k_dim + kv_heads * (k_dim + v_dim)]; table int32 [B, columns]; kv_lens [B], the
    new key counted; slots int64 [B], where it goes; angles float32 [B, rope_dim]. See there. The
    new key attends as it is written, rounded to the cache's type. longest_keys: an upper bound of
    kv_lens; the launch depends on shapes and this bound only, and may be captured. tiles: instead
    of `shapes`' choice, which decides the order of sums and follows from longest_keys and (unless
    `invariant`) from the batch size; otherwise a row's result depends on its own sequence only.

    With pdl, kv_lens, table, slots and all keys of earlier steps are read before the wait for the
    previous kernel: no kernel that this launch may overlap (none of the captured step, unless a
    launch without pdl follows it) may write them. qkv and angles are read after the wait.
    """
    sight = Sight(scale, window, chunk, softcap, slopes, sinks)
    sight.check()
    batch = qkv.shape[0]
    v_dim, group = v_cache.shape[3], heads // kv_heads
    out = torch.empty((batch, heads * v_dim), dtype=qkv.dtype, device=qkv.device)
    if batch == 0:
        return out
    packing = Packing.of(group, kv_heads, k_dim, v_dim, by_group=by_group)
    assert heads % kv_heads == 0
    assert qkv.shape[1] == packing.width
    assert k_cache.shape[2:] == (kv_heads, k_dim)
    assert qkv.stride(1) == k_cache.stride(3) == v_cache.stride(3) == 1
    parts = Parts.of(k_dim, v_dim, latent=False)
    if tiles is None:
        tiles = decode_tiles(
            batch=1 if invariant else batch,
            kv_heads=kv_heads,
            group=group,
            dims=k_dim + v_dim,
            element=qkv.element_size(),
            longest_keys=longest_keys,
        )
    scratch = Scratch.of(batch, heads, kv_heads, tiles, parts.v, workspace)
    before = turn_and_norm(
        angles,
        rope_dim=rope_dim,
        interleaved=interleaved,
        q_norm=q_norm,
        k_norm=k_norm,
        eps=eps,
    )
    more: dict[str, Any] = parts.arguments() | sight.arguments() | packing.arguments()
    attend_new[(batch * -(-group // tiles.BM), kv_heads, tiles.splits)](
        qkv,
        k_cache,
        v_cache,
        table,
        kv_lens,
        slots,
        out=out,
        qkv_row=qkv.stride(0),
        k_block=k_cache.stride(0),
        k_row=k_cache.stride(1),
        k_head=k_cache.stride(2),
        v_block=v_cache.stride(0),
        v_row=v_cache.stride(1),
        v_head=v_cache.stride(2),
        table_row=table.stride(0),
        HEADS=heads,
        G=group,
        BLOCK=k_cache.shape[1],
        BM=tiles.BM,
        BN=tiles.BN,
        SPLITS=tiles.splits,
        MIN_TILES=tiles.min_tiles,
        STAGES=tiles.stages,
        PDL=pdl,
        num_warps=tiles.warps,
        launch_pdl=pdl,
        **before,
        **more,
        **scratch.arguments(),
    )
    scratch.combine(sinks, out, None, pdl=pdl)
    return out
