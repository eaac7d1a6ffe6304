"""Recurrences on the device: float64's numbers, and the same bits in any cut and alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch, FixedState
from rbee_worker.ops.cuda.kernels.recurrence import wkv
from rbee_worker.ops.cuda.kernels.recurrence.conv import causal_conv
from rbee_worker.ops.cuda.kernels.recurrence.delta import gated_delta
from rbee_worker.ops.cuda.kernels.recurrence.linear_scan import linear_scan
from rbee_worker.ops.cuda.kernels.recurrence.rg_lru import rg_lru
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.state_space import selective_scan, ssd
from rbee_worker.ops.cuda.kernels.recurrence.taylor import taylor
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.scan import linear_scan as reference_scan
from rbee_worker.state.specs import StateRef
from tests.ops.recurrences import CASES, Conv, Delta, Heads, check
from tests.ops.taylor import Taylor
from tests.ops.wkv import CASES as RWKV


class Ours:
    """The kernels with the arguments of `Recurrences`."""

    def __init__(self, device: str) -> None:
        self.device = device

    def _run(self, kernel: Any, given: Any, where: StateRef, name: str, batch: Batch, **how: Any):
        kept = batch.state[where.group]
        assert isinstance(kept, FixedState)
        state = kept.tensors[name][where.layer]
        on = state.to(self.device)
        starts = batch.seq_starts_host
        longest = max(b - a for a, b in itertools.pairwise(starts))
        sequences = Sequences(batch.seq_starts.to(self.device), kept.slots.to(self.device), longest)
        put = [None if t is None else t.to(self.device) for t in given]
        y = kernel(*put, on, sequences, **how)
        state.copy_(on)
        return tuple(part.cpu() for part in y) if isinstance(y, tuple) else y.cpu()

    def causal_conv(self, x, taps, bias, where, name, batch, *, kind):
        return self._run(causal_conv, (x, taps, bias), where, name, batch, kind=kind)

    def selective_scan(self, x, dt, b, c, gate, rates, skip, where, name, batch):
        return self._run(selective_scan, (x, dt, b, c, gate, rates, skip), where, name, batch)

    def ssd(self, x, dt, b, c, gate, bias, rates, skip, where, name, batch, *, groups):
        given = (x, dt, b, c, gate, bias, rates, skip)
        return self._run(ssd, given, where, name, batch, groups=groups)

    def rg_lru(self, x, into, passing, into_bias, passing_bias, rates, where, name, batch):
        given = (x, into, passing, into_bias, passing_bias, rates, batch.positions)
        return self._run(rg_lru, given, where, name, batch)

    def gated_delta(self, q, k, v, dt, beta, bias, rates, where, name, batch, *, groups):
        given = (q, k, v, dt, beta, bias, rates)
        return self._run(gated_delta, given, where, name, batch, groups=groups)

    def taylor(self, q, k, v, where, name, batch, *, heads):
        return self._run(taylor, (q, k, v), where, name, batch, heads=heads)

    def previous(self, x, where, name, batch):
        return self._run(wkv.previous, (x,), where, name, batch)

    def wkv(self, r, k, v, decay, base, bonus, where, name, batch, *, heads):
        given = (r, k, v, decay, base, bonus)
        return self._run(wkv.wkv, given, where, name, batch, heads=int(heads))

    def wkv_delta(self, *given, heads):
        *rows, where, name, batch = given
        return self._run(wkv.wkv_delta, rows, where, name, batch, heads=int(heads))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", [*CASES, *RWKV, Taylor])
def test_equals_float64_in_any_cut(kind, seed, device):
    check(kind(seed), Ours(device))


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_mixing_is_the_references(parts, device):
    """Constant factors of several ways, moving ones, and both."""
    generator = torch.Generator().manual_seed(parts)
    x, y = torch.randn(2, 5, 300, generator=generator)
    factors = torch.randn(max(parts, 1) * 300, generator=generator)
    moving = torch.randn(5, max(parts, 1) * 300, generator=generator)
    for given in ((factors, None), (None, moving), (factors, moving)):
        on = [None if one is None else one.to(device) for one in given]
        got = wkv.lerp(x.to(device), y.to(device), *on)
        assert torch.equal(got.cpu(), ReferenceOps().lerp(x, y, *given))


def test_linear_scan_is_the_references(device):
    """Bit for bit: a product and a sum, each rounded."""
    g = torch.Generator().manual_seed(0)
    x, decay = torch.randn(12, 70, generator=g), torch.rand(12, 70, generator=g)
    state, starts, slots = torch.randn(6, 70, generator=g), [0, 1, 1, 12], [4, 2, 5]
    ours = state.clone().to(device)
    sequences = Sequences(
        torch.tensor(starts, device=device), torch.tensor(slots, device=device), 11
    )
    got = linear_scan(x.to(device), decay.to(device), ours, sequences)
    want = reference_scan(x, decay, state, torch.tensor(slots), starts)
    assert torch.equal(got.cpu(), want)
    assert torch.equal(ours.cpu(), state)


@pytest.mark.parametrize("case", [Conv(2), Heads(2), Delta(2)])
def test_columns_of_a_row_apart(case, device):
    want, _ = case.computed(Ours(device), [case.lengths])
    run, apart = case.run, lambda t: torch.stack([t, t], 2)[..., 0]
    case.run = lambda ops, rows, batch: run(ops, list(map(apart, rows)), batch)
    got, _ = case.computed(Ours(device), [case.lengths])
    assert all(map(torch.equal, got, want))


def test_a_convolution_between_products(device):
    """Its state has the products; in one step, and row by row."""
    g = torch.Generator().manual_seed(5)
    x, before, after = torch.randn(3, 9, 40, generator=g)
    taps, state = torch.randn(3, 40, generator=g), torch.randn(4, 2, 40, generator=g)
    line = torch.cat([state[2], x * before]).double()
    want = sum(taps[k].double() * line[k : k + 9] for k in range(3)) * after.double()
    for steps in ([9], [1] * 9, [4, 1, 4]):
        kept, at, found = state.clone().to(device), 0, []
        for count in steps:
            rows = [t[at : at + count].to(device) for t in (x, before, after)]
            starts = torch.tensor([0, count], device=device)
            given = Sequences(starts, torch.tensor([2], device=device), count)
            how = {"kind": None, "before": rows[1], "after": rows[2]}
            on = taps.flatten().to(device)
            found.append(causal_conv(rows[0], on, None, kept, given, **how).cpu())
            at += count
        assert (torch.cat(found).double() - want).abs().max() < 1e-5
        assert (kept[2].cpu().double() - line[-2:]).abs().max() < 1e-6
        assert torch.equal(kept[[0, 1, 3]].cpu(), state[[0, 1, 3]])


@pytest.mark.parametrize("case", [Conv(3), Heads(3)])
def test_rows_in_half_precision(case, device):
    case.rows = [t.half() for t in case.rows]
    (got, *_), _ = case.computed(Ours(device), [case.lengths])
    (want, *_), _ = case.wanted()
    assert got.dtype == torch.float16
    assert np.abs(got.double().numpy() - want).max() < 2e-3 * max(1, np.abs(want).max())


def test_parts_of_wider_rows(device):
    """x, b and c as columns of one matrix."""
    case = Heads(1)
    widths = [t.shape[1] for t in case.rows]
    whole: Tensor = torch.cat(case.rows, 1)
    parts = list(whole.split(widths, 1))
    want, _ = case.computed(Ours(device), [case.lengths])
    run = case.run
    case.run = lambda ops, rows, batch: run(ops, parts, batch)  # type: ignore[method-assign]
    got, _ = case.computed(Ours(device), [case.lengths])
    assert all(map(torch.equal, got, want))
