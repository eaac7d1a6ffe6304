"""Operations with fixed state on random rows: numpy's float64 of them, and a backend's in any cut.

A case is a few sequences with their rows and what their slots hold. It is run in steps, of which
each takes some of the next rows of each sequence.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Batch, FixedState
from rbee_worker.ops.cells import by_cell
from rbee_worker.ops.reference.scan import into_cells
from rbee_worker.state.specs import StateRef
from tests.ops.reference.test_ops import make_batch

LAYERS, LAYER, SLOTS = 3, 1, 12
Counts = Sequence[int]  # rows of each sequence


class Case(ABC):
    """lengths: rows of each sequence. rows: what an operation takes of each row, one tensor an
    argument, [N, ...], those of all sequences one after another; state: [layers, slots, ...]."""

    name = "kept"
    first = 1  # position of a sequence's first row
    by_column = 0  # which of `rows` has columns of which each is computed alone
    given: Counts = ()  # rows of the sequences, if they are not random

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)
        self.width = self.rng.choice([1, 7, 16, 40, 53, 70])
        self.lengths = list(self.given) or [
            self.rng.choice([1, 2, 5, 33, 70]) for _ in range(self.rng.randint(1, 4))
        ]
        self.slots = self.rng.sample(range(1, SLOTS), len(self.lengths))

    rows: list[Tensor]
    state: Tensor

    @abstractmethod
    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        """The operation on some rows."""

    @abstractmethod
    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One sequence in float64: what it gives, and the state that is left."""

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.torch) * scale

    def of(self, b: int) -> slice:
        """The rows of sequence b."""
        start = sum(self.lengths[:b])
        return slice(start, start + self.lengths[b])

    def cuts(self, seed: int) -> list[Counts]:
        """Steps in which all rows are taken, of as many as may be, none included."""
        rng, left, steps = random.Random(seed), list(self.lengths), []
        while any(left):
            step = [min(n, rng.choice([0, 1, 1, 3, 20, 64])) for n in left]
            steps.append(step)
            left = [n - taken for n, taken in zip(left, step, strict=True)]
        return steps

    def wanted(self) -> tuple[list[np.ndarray], np.ndarray]:
        """What float64 gives: results of each sequence, and all of the state."""
        out, state = [], self.state.double().numpy().copy()
        for b, slot in enumerate(self.slots):
            rows = [t[self.of(b)].double().numpy() for t in self.rows]
            y, state[LAYER, slot] = self.exact(rows, state[LAYER, slot])
            out.append(y)
        return out, state

    def computed(
        self, ops: Any, steps: Sequence[Counts], *, only: int | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """What a backend gives in these steps; only: sequence b alone."""
        state = self.state.clone()
        chosen = range(len(self.lengths)) if only is None else [only]
        done, out = [0] * len(self.lengths), [[] for _ in self.lengths]  # type: ignore[var-annotated]
        for step in steps:
            counts = [step[b] for b in chosen]
            if not sum(counts):
                continue
            starts = [self.of(b).start + done[b] for b in chosen]
            taken = [slice(s, s + n) for s, n in zip(starts, counts, strict=True)]
            rows = [torch.cat([t[part] for part in taken]) for t in self.rows]
            ends = [self.first + done[b] + n for b, n in zip(chosen, counts, strict=True)]
            plain = make_batch(list(zip(ends, counts, strict=True)), heads=1)
            slots = torch.tensor([self.slots[b] for b in chosen])
            fixed = FixedState({"other": state * 0, self.name: state}, slots)
            y = self.run(ops, rows, replace(plain, state=(*plain.state, fixed)))
            for b, part in zip(chosen, y.split(counts), strict=True):
                out[b].append(part)
                done[b] += len(part)
        return [torch.cat(out[b]) for b in chosen], state


@dataclass(frozen=True)
class _Act:
    kind: Activation | None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.kind is None:
            return x
        return x / (1 + np.exp(-x)) if self.kind == "silu" else np.tanh(x)


class Conv(Case):
    """`Ops.causal_conv`"""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        count = self.rng.choice([2, 3, 4, 6])
        self.kind: Activation | None = self.rng.choice([None, "silu", "tanh"])
        self.taps = self.normal(count, self.width)
        self.bias = self.normal(self.width) if self.rng.random() < 0.7 else None
        self.rows = [self.normal(sum(self.lengths), self.width)]
        self.state = self.normal(LAYERS, SLOTS, count - 1, self.width)

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        where, taps = StateRef(1, LAYER), self.taps.flatten()
        y: Tensor = ops.causal_conv(*rows, taps, self.bias, where, self.name, batch, kind=self.kind)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (x,) = rows
        taps, count = self.taps.double().numpy(), len(self.taps)
        line = np.concatenate([state, x])
        y = np.stack([(taps * line[t : t + count]).sum(0) for t in range(len(x))])
        if self.bias is not None:
            y = y + self.bias.double().numpy()
        return _Act(self.kind)(y), line[len(x) :]


class Selective(Case):
    """`Ops.selective_scan`; steps from tiny to large, states that last and such that do not."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        count, states = sum(self.lengths), self.rng.choice([1, 3, 16, 21])
        self.rates = -torch.exp(self.normal(states, self.width, scale=2.0))
        self.skip = self.normal(self.width)
        shapes = (self.width, self.width, states, states, self.width)  # x, dt, b, c, gate
        self.rows = [self.normal(count, n) for n in shapes]
        self.rows[1] = self.rows[1] * 4 - 2
        self.state = into_cells(self.normal(LAYERS, SLOTS, states, self.width))

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        where = StateRef(1, LAYER)
        rates = torch.from_numpy(by_cell(self.rates.numpy())).flatten()
        y: Tensor = ops.selective_scan(*rows, rates, self.skip, where, self.name, batch)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, dt, b, c, gate = rows
        rates, skip = self.rates.double().numpy(), self.skip.double().numpy()
        cells, states, _ = state.shape
        h = state.swapaxes(0, 1).reshape(states, -1)[:, : self.width]
        size, out = np.log1p(np.exp(dt)), []
        for t in range(len(x)):
            h = np.exp(size[t] * rates) * h + np.outer(b[t], size[t] * x[t])
            out.append(h.T @ c[t] + skip * x[t])
        left = np.zeros((states, cells * 16))
        left[:, : self.width] = h
        left = left.reshape(states, cells, 16).swapaxes(0, 1)
        return np.stack(out) * _Act("silu")(gate), left


class Heads(Case):
    """`Ops.ssd`; heads of any width, one group and several."""

    gated = True

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        count, states = sum(self.lengths), self.rng.choice([1, 5, 16, 34])
        self.groups = self.rng.choice([1, 2, 3])
        heads = self.groups * self.rng.choice([1, 2, 5])
        width = heads * self.rng.choice([1, 8, 16, 24, 40])
        self.bias, self.skip = self.normal(heads), self.normal(heads)
        self.rates = -torch.exp(self.normal(heads, scale=2.0))
        shared = self.groups * states
        shapes = (width, heads, shared, shared, width)[: 5 if self.gated else 4]
        self.rows = [self.normal(count, n) for n in shapes]  # x, dt, b, c, gate
        self.rows[1] = self.rows[1] * 4 - 2
        self.state = into_cells(self.normal(LAYERS, SLOTS, states, width), heads)

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        where, vectors = StateRef(1, LAYER), (self.bias, self.rates, self.skip)
        rows = rows if self.gated else [*rows, None]  # type: ignore[list-item]
        y: Tensor = ops.ssd(*rows, *vectors, where, self.name, batch, groups=self.groups)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, dt, b, c, *gate = rows
        heads, states, columns = dt.shape[1], state.shape[1], x.shape[1] // dt.shape[1]
        bias, rates, skip = (v.double().numpy() for v in (self.bias, self.rates, self.skip))
        size = np.log1p(np.exp(dt + bias))
        # [heads * cells, states, 16] as [states, heads, columns of whole cells]
        whole = (
            state.reshape(heads, -1, states, 16).transpose(2, 0, 1, 3).reshape(states, heads, -1)
        )
        h, y = whole.copy(), np.empty_like(x)
        for t in range(len(x)):
            for head in range(heads):
                part = slice(head * columns, (head + 1) * columns)
                mine = head // (heads // self.groups) * states
                into, out = b[t, mine : mine + states], c[t, mine : mine + states]
                mine_h = h[:, head, :columns]
                mine_h *= np.exp(size[t, head] * rates[head])
                mine_h += np.outer(into, size[t, head] * x[t, part])
                y[t, part] = out @ mine_h + skip[head] * x[t, part]
        left = h.reshape(states, heads, -1, 16).transpose(1, 2, 0, 3).reshape(state.shape)
        return y * _Act("silu")(gate[0]) if gate else y, left


class Ungated(Heads):
    """The same without a gate."""

    gated = False


class Gated(Case):
    """`Ops.rg_lru`, from a sequence's beginning on; gates from closed to open."""

    first = 0

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.first = self.rng.choice([0, 3])
        self.biases = [self.normal(self.width) for _ in "ab"]
        self.rates = -torch.exp(self.normal(self.width, scale=2.0))
        self.rows = [self.normal(sum(self.lengths), self.width, scale=k) for k in (1.0, 2.0, 3.0)]
        self.state = self.normal(LAYERS, SLOTS, self.width)

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        where = StateRef(1, LAYER)
        y: Tensor = ops.rg_lru(*rows, *self.biases, self.rates, where, self.name, batch)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, into, passing = rows
        more, pass_more = (b.double().numpy() for b in self.biases)
        given = x / (1 + np.exp(-(into + more)))
        power = self.rates.double().numpy() / (1 + np.exp(-(passing + pass_more)))
        h, out = state, []
        for t in range(len(x)):
            if self.first + t == 0:
                h = given[t]
            else:
                h = np.exp(power[t]) * h + np.sqrt(-np.expm1(2 * power[t])) * given[t]
            out.append(h)
        return np.stack(out), h


class Delta(Case):
    """`Ops.gated_delta`; heads of any width, one group and several."""

    by_column = 2

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        count, self.states = sum(self.lengths), self.rng.choice([1, 5, 16, 34])
        self.groups = self.rng.choice([1, 2, 3])
        heads = self.groups * self.rng.choice([1, 2, 4])
        width = heads * self.rng.choice([1, 8, 16, 24, 40])
        self.bias, self.rates = self.normal(heads), -torch.exp(self.normal(heads, scale=2.0))
        both = self.groups * self.states
        self.rows = [self.normal(count, n) for n in (both, both, width, heads, heads)]
        self.state = into_cells(self.normal(LAYERS, SLOTS, self.states, width), heads)

    def run(self, ops: Any, rows: list[Tensor], batch: Batch) -> Tensor:
        where = StateRef(1, LAYER)
        vectors = (self.bias, self.rates)
        y: Tensor = ops.gated_delta(*rows, *vectors, where, self.name, batch, groups=self.groups)
        return y

    def exact(self, rows: list[np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, k, v, dt, beta = rows
        heads, columns = dt.shape[1], v.shape[1] // dt.shape[1]
        bias, rates = self.bias.double().numpy(), self.rates.double().numpy()
        # [heads * cells, states, 16] as [heads, states, columns of whole cells]
        h = state.reshape(heads, -1, self.states, 16).swapaxes(1, 2)
        h = h.reshape(heads, self.states, -1).copy()
        y = np.empty_like(v)
        for t in range(len(v)):
            for head in range(heads):
                at = head // (heads // self.groups) * self.states
                query, key = (r[t, at : at + self.states] for r in (q, k))
                query, key = (r / np.sqrt(r @ r + 1e-6) for r in (query, key))
                part = slice(head * columns, (head + 1) * columns)
                mine = h[head, :, :columns]
                mine *= np.exp(rates[head] * np.log1p(np.exp(dt[t, head] + bias[head])))
                new = (v[t, part] - key @ mine) / (1 + np.exp(-beta[t, head]))
                mine += np.outer(key, new)
                y[t, part] = query @ mine / np.sqrt(self.states)
        left = h.reshape(heads, self.states, -1, 16).swapaxes(1, 2).reshape(state.shape)
        return y, left


CASES: tuple[type[Case], ...] = (Conv, Selective, Heads, Ungated, Gated, Delta)


def check(case: Case, ops: Any) -> None:
    """Float64's numbers; the same bits in other steps, and of each sequence alone; no other slot or
    layer is touched."""
    whole = [case.lengths]
    got, left = case.computed(ops, whole)
    want, state = case.wanted()
    for y, exact in zip(got, want, strict=True):
        assert np.abs(y.double().numpy() - exact).max() < 2e-6 * max(1, np.abs(exact).max())
    assert np.abs(left.double().numpy() - state).max() < 2e-6 * np.abs(state).max()
    touched = torch.zeros(LAYERS, SLOTS, dtype=torch.bool)
    touched[LAYER, case.slots] = True
    assert torch.equal(left[~touched], case.state[~touched])
    for seed in range(2):
        again, after = case.computed(ops, case.cuts(seed))
        assert all(map(torch.equal, again, got))
        assert torch.equal(after, left)
    for b in range(len(case.lengths)):
        (alone,), _ = case.computed(ops, case.cuts(b), only=b)
        assert torch.equal(alone, got[b])
