"""Based's linear attention on random rows: a case for `check` of tests/ops/recurrences.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.scan import into_cells
from rbee_worker.state.specs import StateRef
from tests.ops.recurrences import LAYER, LAYERS, SLOTS, Case


def states_of(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The sums of `Taylor.taylor`: k [T, size], v [T, columns] -> [states, columns + 1]."""
    values = np.concatenate([v, np.ones((len(v), 1))], axis=1)
    products = [np.ones(len(k))]
    for i in range(k.shape[1]):
        products += [k[:, i], *(k[:, i] * k[:, j] for j in range(i + 1))]
    return np.stack(products) @ values


class Taylor(Case):
    """`Ops.taylor`: heads of any width, and sequences of which some rows were computed before."""

    by_column = 2
    before = 9  # rows that a slot's state is of

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.size, self.heads = self.rng.choice([1, 5, 8, 16]), self.rng.choice([1, 2, 3])
        self.columns = self.rng.choice([1, 8, 15, 16, 40, 64])
        widths = [self.heads * n for n in (self.size, self.size, self.columns)]
        self.rows = [self.normal(sum(self.lengths), n) for n in widths]
        shape = (LAYERS, SLOTS, self.before, self.heads)
        self.keys = self.normal(*shape, self.size).double().numpy()
        self.values = self.normal(*shape, self.columns).double().numpy()
        made = [
            [
                [states_of(k[:, h], v[:, h]) for h in range(self.heads)]
                for k, v in zip(*pair, strict=True)
            ]
            for pair in zip(self.keys, self.values, strict=True)
        ]
        whole = np.moveaxis(np.array(made, np.float32), 2, 3)  # [.., states, heads, columns + 1]
        flat = whole.reshape(*whole.shape[:3], -1)
        self.state = into_cells(torch.from_numpy(flat), self.heads)

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        where = StateRef(1, LAYER)
        y: Tensor = ops.taylor(*rows, where, self.name, batch, heads=self.heads)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From all rows, also those of which the slot has the sums: every weight by itself."""
        slot = next(s for s in self.slots if np.array_equal(self.state[LAYER, s], state))
        q, k, v = rows
        y, kept = np.empty_like(v), []
        for head in range(self.heads):
            mine = slice(head * self.size, (head + 1) * self.size)
            own = slice(head * self.columns, (head + 1) * self.columns)
            keys = np.concatenate([self.keys[LAYER, slot, :, head], k[:, mine]])
            values = np.concatenate([self.values[LAYER, slot, :, head], v[:, own]])
            for t in range(len(q)):
                x = keys[: self.before + t + 1] @ q[t, mine] / np.sqrt(self.size)
                w = 1 + x + x**2 / 2
                y[t, own] = w @ values[: len(x)] / w.sum()
            kept.append(states_of(keys, values))
        whole = np.stack(kept, axis=1)  # [states, heads, columns + 1]
        padded = np.zeros((*whole.shape[:2], -(-whole.shape[2] // 16) * 16))
        padded[..., : whole.shape[2]] = whole
        return y, padded.reshape(*whole.shape[:2], -1, 16).transpose(1, 2, 0, 3).reshape(
            state.shape
        )
