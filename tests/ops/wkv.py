"""RWKV's operations on random rows: cases for `check` of tests/ops/recurrences.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.scan import into_cells
from rbee_worker.state.specs import StateRef
from tests.ops.recurrences import LAYER, LAYERS, SLOTS, Case

WHERE = StateRef(1, LAYER)


class Previous(Case):
    """`Ops.previous`"""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rows = [self.normal(sum(self.lengths), self.width)]
        self.state = self.normal(LAYERS, SLOTS, 1, self.width)

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        y: Tensor = ops.previous(*rows, WHERE, self.name, batch)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (x,) = rows
        return np.concatenate([state, x[:-1]]), x[-1:]


class Matrices(Case):
    """A state of a matrix for each of a few heads of any width."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.heads, self.size = self.rng.choice([1, 2, 3]), self.rng.choice([1, 8, 16, 24, 40])
        self.width = self.heads * self.size
        self.state = into_cells(self.normal(LAYERS, SLOTS, self.size, self.width), self.heads)

    def matrices(self, state: np.ndarray) -> np.ndarray:
        """[heads * cells, size, 16] as [heads, keys, values]"""
        apart = state.reshape(self.heads, -1, self.size, 16).transpose(0, 2, 1, 3)
        return apart.reshape(self.heads, self.size, -1)[..., : self.size]

    def cells(self, h: np.ndarray) -> np.ndarray:
        """The inverse of `matrices`."""
        whole = np.zeros((self.heads, self.size, -(-self.size // 16) * 16))
        whole[..., : self.size] = h
        apart = whole.reshape(self.heads, self.size, -1, 16).transpose(0, 2, 1, 3)
        return apart.reshape(-1, self.size, 16)

    def by_head(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), self.heads, self.size)


class Plain(Matrices):
    """`Ops.wkv`: weights near 1 and near 0, and with a decay that does not move."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.moves = self.rng.random() < 0.7
        self.base = self.normal(self.width) - 2
        self.bonus = self.normal(self.width)
        count = 4 if self.moves else 3
        self.rows = [self.normal(sum(self.lengths), self.width) for _ in range(count)]

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        given = rows if self.moves else [*rows, None]
        y: Tensor = ops.wkv(
            *given, self.base, self.bonus, WHERE, self.name, batch, heads=self.heads
        )
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, k, v = (self.by_head(x) for x in rows[:3])
        raw = self.base.double().numpy() + (rows[3] if self.moves else np.zeros_like(rows[0]))
        w, bonus = (
            np.exp(-np.exp(self.by_head(raw))),
            self.by_head(self.bonus.double().numpy()[None]),
        )
        h, y = self.matrices(state), []
        for t in range(len(r)):
            given = k[t, :, :, None] * v[t, :, None]
            y.append(np.einsum("hn,hni->hi", r[t], h + bonus[0, :, :, None] * given).ravel())
            h = w[t, :, :, None] * h + given
        return np.stack(y), self.cells(h)


class Delta(Matrices):
    """`Ops.wkv_delta`, both results side by side; a key may be zero."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.vectors = [self.normal(self.width) for _ in range(3)]
        self.rows = [self.normal(sum(self.lengths), self.width) for _ in range(5)]
        self.rows[1][0] = 0

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        y, z = ops.wkv_delta(*rows, *self.vectors, WHERE, self.name, batch, heads=self.heads)
        return torch.cat([y, z], dim=1)

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, k, v, decay, rate = (self.by_head(x) for x in rows)
        removal, renewal, bonus = (self.by_head(x.double().numpy()[None])[0] for x in self.vectors)
        w, a = np.exp(-np.exp(-0.5) / (1 + np.exp(-decay))), 1 / (1 + np.exp(-rate))
        u = k * removal
        u = u / np.maximum(np.linalg.norm(u, axis=-1, keepdims=True), 1e-12)
        c = k * (1 + (a - 1) * renewal)
        z = (r * c * bonus).sum(-1, keepdims=True) * v
        h, y = self.matrices(state), []
        for t in range(len(r)):
            gone = np.einsum("hn,hni->hi", u[t], h)
            h = w[t, :, :, None] * h - (u * a)[t, :, :, None] * gone[:, None]
            h = h + c[t, :, :, None] * v[t, :, None]
            y.append(np.einsum("hn,hni->hi", r[t], h).ravel())
        return np.concatenate([np.stack(y), z.reshape(len(z), -1)], axis=1), self.cells(h)


CASES: tuple[type[Case], ...] = (Previous, Plain, Delta)
