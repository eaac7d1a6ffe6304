"""Ragged batches in a paged cache with poisoned gaps, and attention in numpy float64."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DEVICE = "cuda" if os.environ.get("RBEE_TEST_GPU") == "1" else "cpu"
BLOCK = 16
BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
F64 = NDArray[np.float64]


@dataclass
class Case:
    """Sequences with `rows` new tokens at the end of `lens` keys each.

    The cache is [blocks, kv_heads, block, dim] in memory, as the backend stores it, and NaN where
    no sequence has a key. lens may be longer than the rows' positions say if `source` is true (keys
    of a source; positions start at 0).
    """

    rows: list[int]
    lens: list[int]
    heads: int
    kv_heads: int
    k_dim: int
    v_dim: int
    latent: bool = False
    source: bool = False
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    ahead: int = 0  # rows see so many positions more than their own, up to the last one

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        held = self.cache_dtype or self.dtype
        blocks = [-(-n // BLOCK) for n in self.lens]
        shuffled = (torch.randperm(sum(blocks), generator=draw) + 1).tolist()
        table = torch.zeros((len(self.lens), max(blocks) + 1), dtype=torch.int32)
        shape = (sum(blocks) + 1, self.kv_heads, BLOCK)
        k = torch.full((*shape, self.k_dim), float("nan"), dtype=held)
        v = torch.full((*shape, self.v_dim), float("nan"), dtype=held)
        self.keys: list[F64] = []  # [len, kv_heads, k_dim]
        self.values: list[F64] = []
        for b, n in enumerate(self.lens):
            mine = [shuffled.pop() for _ in range(blocks[b])]
            table[b, : len(mine)] = torch.tensor(mine, dtype=torch.int32)
            keys = torch.randn((n, self.kv_heads, self.k_dim), generator=draw).to(held)
            values = torch.randn((n, self.kv_heads, self.v_dim), generator=draw).to(held)
            if self.latent:
                values = keys[..., : self.v_dim]
            for t in range(n):
                k[mine[t // BLOCK], :, t % BLOCK] = keys[t]
                v[mine[t // BLOCK], :, t % BLOCK] = values[t]
            self.keys.append(keys.double().numpy())
            self.values.append(values.double().numpy())
        self.k = k.to(DEVICE).transpose(1, 2)
        self.v = v.to(DEVICE).transpose(1, 2)
        self.table = table.to(DEVICE)
        starts = np.concatenate([[0], np.cumsum(self.rows)])
        q = torch.randn((int(starts[-1]), self.heads * self.k_dim), generator=draw)
        self.q = q.to(self.dtype).to(DEVICE)
        self.seq_starts = torch.tensor(starts, dtype=torch.int64, device=DEVICE)
        self.kv_lens = torch.tensor(self.lens, dtype=torch.int64, device=DEVICE)
        self.at = [
            np.arange(r) + (0 if self.source else n - r)
            for r, n in zip(self.rows, self.lens, strict=True)
        ]
        at = np.concatenate(self.at)
        self.positions = torch.tensor(at, dtype=torch.int64, device=DEVICE)

    def tensors(self) -> tuple[Tensor, ...]:
        """The positional arguments of `attend`."""
        v = None if self.latent else self.v
        return self.q, self.k, v, self.table, self.seq_starts, self.kv_lens, self.positions

    def arguments(self) -> dict[str, Any]:
        """The arguments of `attend` by name."""
        return {
            "longest_rows": max(self.rows),
            "longest_keys": max(self.lens),
            "heads": self.heads,
            "scale": self.k_dim**-0.5,
            "values": self.v_dim if self.latent else None,
            "until": self.until() if self.ahead else None,
            **self.options,
        }

    def until(self) -> Tensor:
        """The last position that each row sees."""
        seen = [np.minimum(a + self.ahead, n - 1) for a, n in zip(self.at, self.lens, strict=True)]
        return torch.tensor(np.concatenate(seen), dtype=torch.int64, device=DEVICE)

    def expected(self) -> F64:
        """[N, heads * v_dim] in float64."""
        q = self.q.double().cpu().numpy().reshape(-1, self.heads, self.k_dim)
        parts = np.split(q, np.cumsum(self.rows)[:-1])
        whole = [
            attention(part, k, v, at, self.k_dim**-0.5, ahead=self.ahead, **self.options)
            for part, k, v, at in zip(parts, self.keys, self.values, self.at, strict=True)
        ]
        return np.concatenate(whole).reshape(len(q), -1)


def attention(
    q: F64,
    k: F64,
    v: F64,
    at: NDArray[np.int64],
    scale: float,
    *,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    causal: bool = True,
    ahead: int = 0,
) -> F64:
    """q [n, heads, k_dim] at positions `at`, k [T, kv_heads, k_dim], v -> [n, heads, v_dim]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(group, 1), v.repeat(group, 1)
    x = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) * scale  # [heads, n, T]
    if softcap is not None:
        x = softcap * np.tanh(x / softcap)
    behind = np.arange(len(k))[None, :] - at[:, None]
    if slopes is not None:
        x = x + slopes.double().cpu().numpy()[:, None, None] * behind
    seen = behind <= ahead if causal else behind < (len(k) if window is None else window)
    if not causal and window is None:
        seen = np.ones_like(behind, dtype=bool)
    if window is not None:
        seen = seen & (behind > -window)
    if chunk is not None:
        seen = seen & (behind >= -(at[:, None] % chunk))
    x = np.where(seen, x, -np.inf)
    top = x.max(-1, keepdims=True)
    extra = np.zeros((len(x), 1, 1))
    if sinks is not None:
        sink = sinks.double().cpu().numpy()[:, None, None]
        top = np.maximum(top, sink)
        extra = np.exp(sink - top)
    p = np.exp(x - top)
    mixed: F64 = p / (p.sum(-1, keepdims=True) + extra) @ v.transpose(1, 0, 2)
    return mixed.transpose(1, 0, 2)


def error(got: Tensor, expected: F64) -> float:
    """The largest difference, relative to the largest number expected."""
    return float(np.abs(got.double().cpu().numpy() - expected).max() / np.abs(expected).max())
