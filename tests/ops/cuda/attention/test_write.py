"""Keys and values written to the cache, and the packed projection split on its way there."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rbee_worker.ops.cuda.kernels.attention.write import split_rope_write, write_kv
from tests.ops.cuda.attention.cases import BLOCK, DEVICE
from tests.ops.cuda.attention.packed import KINDS, Before

SLOTS = torch.tensor([17, 3, 40, 63, 16, *range(20, 34)], device=DEVICE)


def caches(kv_heads: int, k_dim: int, v_dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """[4 blocks, block, kv_heads, dim], filled with sevens."""
    shape = (4, kv_heads, BLOCK)
    return [
        torch.full((*shape, dim), 7.0, dtype=dtype, device=DEVICE).transpose(1, 2)
        for dim in (k_dim, v_dim)
    ]


def flat(cache: torch.Tensor) -> torch.Tensor:
    return cache.reshape(4 * BLOCK, *cache.shape[2:]).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dims", [(16, 16), (80, 24)], ids=str)
def test_write_kv(dtype: torch.dtype, dims: tuple[int, int]) -> None:
    k_cache, v_cache = caches(2, *dims, dtype)
    k, v = (torch.randn(len(SLOTS), 2 * dim, device=DEVICE) for dim in dims)
    if dtype == torch.float8_e4m3fn:  # the interpreter does not round to it as the card does
        k, v = k.to(dtype).float(), v.to(dtype).float()
    write_kv(k, v, k_cache, v_cache, SLOTS)
    for x, cache in ((k, k_cache), (v, v_cache)):
        expected = torch.full_like(flat(cache), 7.0)
        expected[SLOTS] = x.view(len(SLOTS), 2, -1).to(dtype).float()
        assert torch.equal(flat(cache), expected)


def test_a_latent_state_stores_keys_only() -> None:
    k_cache, v_cache = caches(1, 40, 8, torch.float32)
    k = torch.randn(len(SLOTS), 100, device=DEVICE)[:, 20:60]
    write_kv(k, None, k_cache, None, SLOTS)
    assert torch.equal(flat(k_cache)[SLOTS, 0], k)
    assert (v_cache == 7).all()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", [(4, 2, 32, 32), (3, 1, 40, 16)], ids=str)
def test_split_rope_write(kind: Before, shape: tuple[int, int, int, int]) -> None:
    heads, kv_heads, k_dim, v_dim = shape
    before = copy.copy(kind)
    before.draw(len(SLOTS), k_dim)
    k_cache, v_cache = caches(kv_heads, k_dim, v_dim, torch.float32)
    draw = torch.Generator().manual_seed(3)
    width = heads * k_dim + kv_heads * (k_dim + v_dim)
    qkv = torch.randn((len(SLOTS), width), generator=draw).to(DEVICE)
    keys = torch.full((len(SLOTS), kv_heads * k_dim), float("nan"), device=DEVICE)
    got = split_rope_write(
        qkv, k_cache, v_cache, SLOTS, before.angles, heads=heads, keys=keys, **before.arguments()
    )
    q, k, v = before.parts(qkv, heads, kv_heads, k_dim, v_dim)
    assert np.abs(got.cpu().numpy() - q.reshape(len(q), -1)).max() < 2e-6
    assert np.abs(keys.cpu().numpy() - k.reshape(len(k), -1)).max() < 2e-6
    for cache, expected in ((k_cache, k), (v_cache, v)):
        assert np.abs(flat(cache)[SLOTS].cpu().numpy() - expected).max() < 2e-6
        others = np.setdiff1d(np.arange(4 * BLOCK), SLOTS.cpu().numpy())
        assert (flat(cache)[others] == 7).all()


def test_no_rows() -> None:
    k_cache, v_cache = caches(1, 16, 16, torch.float32)
    none = SLOTS[:0]
    empty = torch.zeros((0, 64), device=DEVICE)
    write_kv(empty[:, :16], empty[:, :16], k_cache, v_cache, none)
    assert split_rope_write(empty, k_cache, v_cache, none, None, heads=2).shape == (0, 32)
