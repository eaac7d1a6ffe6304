"""Recurrences by chunks and segments of rows: float64's numbers, wherever a step ends; and which
steps are computed so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.fixed_ops import FixedOps
from rbee_worker.ops.cuda.kernels.recurrence.delta_chunks import gated_delta_chunks
from rbee_worker.ops.cuda.kernels.recurrence.linear_scan import linear_scan
from rbee_worker.ops.cuda.kernels.recurrence.rg_lru import rg_lru
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.ssd_chunks import ssd_chunks
from rbee_worker.ops.cuda.kernels.recurrence.state_space import selective_segments
from rbee_worker.ops.cuda.kernels.recurrence.wkv_chunks import wkv_chunks
from rbee_worker.ops.cuda.kernels.recurrence.wkv_delta_chunks import wkv_delta_chunks
from tests.ops.cuda.test_recurrences import Ours
from tests.ops.recurrences import LAYER, LAYERS, SLOTS, Case, Delta, Gated, Heads, Selective
from tests.ops.wkv import Delta as WkvDelta
from tests.ops.wkv import Plain

CHUNKED = (1, 63, 64, 65, 200)  # rows of sequences: chunks have 64
SEGMENTED = (1, 63, 64, 70)  # segments have 32
BOUND = 4e-6  # of the largest number


class Chunks(Ours):
    """The kernels that compute rows side by side, with the arguments of `Recurrences`."""

    def selective_scan(self, x, dt, b, c, gate, rates, skip, where, name, batch):
        return self._run(selective_segments, (x, dt, b, c, gate, rates, skip), where, name, batch)

    def ssd(self, x, dt, b, c, gate, bias, rates, skip, where, name, batch, *, groups):
        given = (x, dt, b, c, gate, bias, rates, skip)
        return self._run(ssd_chunks, given, where, name, batch, groups=groups)

    def rg_lru(self, x, into, passing, into_bias, passing_bias, rates, where, name, batch):
        given = (x, into, passing, into_bias, passing_bias, rates, batch.positions)
        return self._run(rg_lru, given, where, name, batch, segments=True)

    def gated_delta(self, q, k, v, dt, beta, bias, rates, where, name, batch, *, groups):
        given = (q, k, v, dt, beta, bias, rates)
        return self._run(gated_delta_chunks, given, where, name, batch, groups=groups)

    def wkv(self, r, k, v, decay, base, bonus, where, name, batch, *, heads):
        given = (r, k, v, decay, base, bonus)
        return self._run(wkv_chunks, given, where, name, batch, heads=int(heads))

    def wkv_delta(self, *given, heads):
        *rows, where, name, batch = given
        return self._run(wkv_delta_chunks, rows, where, name, batch, heads=int(heads))


def near(got: list[torch.Tensor], left: torch.Tensor, case: Case) -> None:
    """Results and states are float64's; no other slot or layer is touched."""
    want, state = case.wanted()
    for y, exact in zip(got, want, strict=True):
        assert np.abs(y.double().numpy() - exact).max() < BOUND * max(1, np.abs(exact).max())
    assert np.abs(left.double().numpy() - state).max() < BOUND * np.abs(state).max()
    touched = torch.zeros(LAYERS, SLOTS, dtype=torch.bool)
    touched[LAYER, case.slots] = True
    assert torch.equal(left[~touched], case.state[~touched])


def strong(case: Any, seed: int) -> None:
    """Steps with which a state keeps almost all of itself, or nothing: e^-0.0001 or e^-50 of it."""
    some = torch.rand(case.rows[case.steps].shape, generator=torch.Generator().manual_seed(seed))
    case.rows[case.steps] = torch.where(some < 0.1, 50.0, -9.21034)  # softplus: 50, 0.0001
    case.rates = torch.full_like(case.rates, -1.0)
    if hasattr(case, "bias"):
        case.bias = torch.zeros_like(case.bias)


def long(kind: type[Case], seed: int, lengths: tuple[int, ...]) -> Any:
    """A case with sequences of these lengths."""
    made: type[Case] = type(kind.__name__, (kind,), {"given": lengths})
    return made(seed)


# seeds with two groups, with columns that fill no cell, and with few numbers
_CASES = [(Heads, 28, CHUNKED), (Heads, 25, (70,)), (Delta, 17, CHUNKED), (Delta, 28, (5, 70))]
_CASES += [(Selective, 1, SEGMENTED), (Gated, 1, SEGMENTED)]
_CASES += [
    (Plain, 6, CHUNKED),
    (Plain, 22, (5, 70)),
    (WkvDelta, 13, CHUNKED),
    (WkvDelta, 2, (5, 70)),
]


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("kind", "seed", "lengths"), _CASES)
def test_long_sequences(kind: type[Case], seed: int, lengths: tuple[int, ...], device: str) -> None:
    """In one step, and in two, which end anywhere."""
    case = long(kind, seed, lengths)
    near(*case.computed(Chunks(device), [case.lengths]), case)
    some = [int(n * share) for n, share in zip(case.lengths, (0.9, 0.4, 1, 1, 0.5), strict=False)]
    rest = [n - taken for n, taken in zip(case.lengths, some, strict=True)]
    near(*case.computed(Chunks(device), [some, rest]), case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "steps"), [(Heads, 28, 1), (Delta, 28, 3), (Selective, 1, 1), (Plain, 6, 3)]
)
def test_decays_from_nearly_one_to_nearly_none(
    kind: type[Case], seed: int, steps: int, device: str
) -> None:
    """A row keeps e^-0.0001 or e^-50 of the state, beside each other in one chunk: what comes
    behind a strong decay is as exact as before it. steps: which rows decide."""
    case: Any = long(kind, seed, (100,))
    some = torch.rand(case.rows[steps].shape, generator=torch.Generator().manual_seed(3))
    if kind is Plain:  # e^x is 50 or 0.0001, else softplus(x)
        case.rows[steps] = torch.where(some < 0.1, 3.912023, -9.21034)
        case.base = torch.zeros_like(case.base)
    else:
        case.rows[steps] = torch.where(some < 0.1, 50.0, -9.21034)
        case.rates = torch.full_like(case.rates, -1.0)
    if kind in (Heads, Delta):
        case.bias = torch.zeros_like(case.bias)
    near(*case.computed(Chunks(device), [case.lengths]), case)


@pytest.mark.slow
def test_linear_scans_by_segments(device: str) -> None:
    """Of states that do not last, and of such that do, next to whole sequences."""
    g = torch.Generator().manual_seed(0)
    lengths, slots = [1, 64, 101], [4, 2, 5]
    n, starts = sum(lengths), [0, 1, 65, 166]
    x, decay = torch.randn(n, 70, generator=g), torch.rand(n, 70, generator=g) ** 0.1
    state = torch.randn(6, 70, generator=g)
    want, left = torch.empty(n, 70, dtype=torch.float64), state.double()
    for b, slot in enumerate(slots):
        for t in range(starts[b], starts[b + 1]):
            left[slot] = want[t] = decay[t].double() * left[slot] + x[t].double()
    sequences = Sequences(
        torch.tensor(starts, device=device), torch.tensor(slots, device=device), 101
    )
    kept = state.clone().to(device)
    got = linear_scan(x.to(device), decay.to(device), kept, sequences, segments=True)
    assert (got.cpu() - want).abs().max() < BOUND * want.abs().max()
    assert (kept.cpu() - left).abs().max() < BOUND * left.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed"), [(Heads, 17), (Delta, 17), (Gated, 1), (Plain, 13), (WkvDelta, 13)]
)
def test_which_steps_are_computed_so(kind: type[Case], seed: int, device: str) -> None:
    """Long ones, and none with --deterministic, which keeps the bits of rows in order."""
    if device != "cpu":
        pytest.skip("the operations' rows are on the CPU here")
    fixed, free = (made("cpu", "f32", pdl=False) for made in (FixedOps, DeviceOps))
    for rows in (64, 63) if kind is Heads else (64,):
        case: Any = long(kind, seed, (rows,))
        case.first = 3
        if kind is Gated:
            case.rates = case.rates * 0.01  # no row begins anew or nearly so
        in_order, chunked, always, got = (
            torch.cat([y.flatten(), left.flatten()])
            for ops in (Ours(device), Chunks(device), fixed, free)
            for (y,), left in [case.computed(ops, [[rows]])]
        )
        assert torch.equal(always, in_order)
        assert torch.equal(got, chunked if rows == 64 else in_order)
        assert rows == 63 or not torch.equal(chunked, in_order)
