"""Attention over a paged cache, launched: what `Ops.attend` means once keys are written."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.attention import rows as kernels
from rbee_worker.ops.cuda.kernels.attention.columns import Parts
from rbee_worker.ops.cuda.kernels.attention.scratch import Scratch
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles, decode_tiles, prefill_tiles
from rbee_worker.ops.cuda.kernels.attention.sight import Sight
from rbee_worker.ops.cuda.kernels.workspace import Workspace


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    table: Tensor,
    seq_starts: Tensor,
    kv_lens: Tensor,
    positions: Tensor,
    *,
    workspace: Workspace,
    longest_rows: int,
    longest_keys: int,
    heads: int,
    scale: float,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    distances: Tensor | None = None,
    causal: bool = True,
    values: int | None = None,
    until: Tensor | None = None,
    invariant: bool = False,
    pdl: bool = False,
    single: Tiles | None = None,
    several: Tiles | None = None,
) -> Tensor:
    """q [N, heads * k_dim] attends to its sequences' cached keys: [N, heads * v_dim], q's type.

    k_cache [blocks, block_size, kv_heads, k_dim] and v_cache [.., v_dim]: any strides but 1 for the
    last. values: v_cache is not used; values are the first `values` columns of the keys. table
    int32 [B, columns], seq_starts [B + 1], kv_lens [B], positions, until [N]: see `Batch`.
    longest_rows, longest_keys: upper bounds of the sequences' rows and keys; with longest_rows 1
    every sequence has one row, the launch depends on shapes and these bounds only, and it may be
    captured. slopes, sinks: float32 [heads]; distances: float32, [heads, 2 * reach + 1] in one row.
    Other options: see `Ops.attend`.

    single, several: tiles for sequences with one row and with more, instead of `shapes`' choice.

    Every pointer may come from the kernel before this one: nothing is read before the wait.
    A row's result depends bitwise on its own sequence and on the tiles (`shapes`). Unless
    `invariant` these follow from the number of rows too; if so, only from the model and (sequences
    of one row) from longest_keys. Steps of one row and of several rows use different tiles.
    """
    reach = 0 if distances is None else distances.numel() // heads // 2
    sight = Sight(scale, window, chunk, softcap, slopes, sinks, causal, distances, reach)
    sight.check()
    rows, batch = q.shape[0], table.shape[0]
    latent = values is not None
    v_dim = values if values is not None else _width(v_cache)
    out = torch.empty((rows, heads * v_dim), dtype=q.dtype, device=q.device)
    if rows == 0 or batch == 0:
        return out
    kv_heads, k_dim = k_cache.shape[2:]
    assert heads % kv_heads == 0
    assert q.shape[1] == heads * k_dim
    assert q.stride(1) == k_cache.stride(3) == 1
    assert longest_rows > 1 or rows == batch
    parts = Parts.of(k_dim, v_dim, latent)
    upto = positions if until is None else until
    call = _Call(
        q, k_cache, v_cache, table, seq_starts, kv_lens, positions, upto, out, heads, parts
    )
    group, dims, element = heads // kv_heads, k_dim + (0 if latent else v_dim), q.element_size()
    single = single or decode_tiles(
        batch=1 if invariant else batch,
        kv_heads=kv_heads,
        group=group,
        dims=dims,
        element=element,
        longest_keys=longest_keys,
    )
    if longest_rows == 1:
        _launch_single(call, sight, single, workspace, whole=True, pdl=pdl)
        return out
    several = several or prefill_tiles(
        rows=rows,
        longest_rows=longest_rows,
        kv_heads=kv_heads,
        group=group,
        dims=dims,
        element=element,
        longest_keys=longest_keys,
        invariant=invariant,
    )
    mixed = rows < batch * longest_rows
    if mixed:  # some sequence may have one row
        _launch_single(call, sight, single, workspace, whole=False, pdl=pdl)
    grid = (rows * group // several.BM + batch, kv_heads, several.splits)
    which = kernels.LONGER if mixed else kernels.ALL
    scratch = Scratch.of_rows(rows, heads, several, parts.v, q.device)
    _launch(call, sight, several, grid, which, scratch, pdl=pdl)
    scratch.combine(sinks, out, None, pdl=pdl)
    return out


class _Call(NamedTuple):
    """The tensors of one call of `attend`."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    table: Tensor
    seq_starts: Tensor
    kv_lens: Tensor
    positions: Tensor
    until: Tensor
    out: Tensor
    heads: int
    parts: Parts


def _width(v_cache: Tensor | None) -> int:
    assert v_cache is not None
    assert v_cache.stride(3) == 1
    return v_cache.shape[3]


def _launch_single(
    call: _Call, sight: Sight, tiles: Tiles, workspace: Workspace, *, whole: bool, pdl: bool
) -> None:
    """The sequences with one row, their keys split among programs."""
    batch, kv_heads = call.table.shape[0], call.k.shape[2]
    group = call.heads // kv_heads
    grid = (batch * -(-group // tiles.BM), kv_heads, tiles.splits)
    which = kernels.ONE_ROW if whole else kernels.SINGLE_ROWS
    scratch = Scratch.of(batch, call.heads, kv_heads, tiles, call.parts.v, workspace)
    _launch(call, sight, tiles, grid, which, scratch, pdl=pdl)
    scratch.combine(sight.sinks, call.out, None if whole else call.seq_starts, pdl=pdl)


def _launch(
    call: _Call,
    sight: Sight,
    tiles: Tiles,
    grid: tuple[int, int, int],
    which: Any,
    scratch: Scratch,
    *,
    pdl: bool,
) -> None:
    k, v = call.k, call.v
    kernels.attend_rows[grid](
        call.q,
        k,
        v,
        call.table,
        call.seq_starts,
        call.kv_lens,
        call.positions,
        call.until,
        out=call.out,
        sequences=call.table.shape[0],
        q_row=call.q.stride(0),
        k_block=k.stride(0),
        k_row=k.stride(1),
        k_head=k.stride(2),
        v_block=0 if v is None else v.stride(0),
        v_row=0 if v is None else v.stride(1),
        v_head=0 if v is None else v.stride(2),
        table_row=call.table.stride(0),
        HEADS=call.heads,
        G=call.heads // k.shape[2],
        BLOCK=k.shape[1],
        BM=tiles.BM,
        BN=tiles.BN,
        WHICH=which.value,
        SPLITS=tiles.splits,
        MIN_TILES=tiles.min_tiles,
        STAGES=tiles.stages,
        PDL=pdl,
        num_warps=tiles.warps,
        launch_pdl=pdl,
        **call.parts.arguments(),
        **sight.arguments(),
        **scratch.arguments(),
    )
