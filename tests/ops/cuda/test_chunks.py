"""Recurrences by chunks and segments of rows: float64's numbers, wherever a step ends; and which
steps are computed so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu_recurrence_cases as gpu_cases
from rbee_worker.ops.batch import FixedState
from rbee_worker.ops.cuda import recurrence_ops
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.fixed_ops import FixedOps
from rbee_worker.ops.cuda.kernels.recurrence import chunks
from rbee_worker.ops.cuda.kernels.recurrence.chunks import Chunks, Tile
from rbee_worker.ops.cuda.kernels.recurrence.delta_chunks import gated_delta_chunks
from rbee_worker.ops.cuda.kernels.recurrence.linear_scan import linear_scan
from rbee_worker.ops.cuda.kernels.recurrence.rg_lru import rg_lru
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.segments import segment_rows
from rbee_worker.ops.cuda.kernels.recurrence.ssd_chunks import ssd_chunks
from rbee_worker.ops.cuda.kernels.recurrence.state_space import selective_segments
from rbee_worker.ops.cuda.kernels.recurrence.wkv_chunks import wkv_chunks
from rbee_worker.ops.cuda.kernels.recurrence.wkv_delta_chunks import wkv_delta_chunks
from rbee_worker.state.specs import StateRef
from tests.ops.cuda.near import DEVICE
from tests.ops.cuda.test_recurrences import Ours
from tests.ops.recurrences import LAYER, LAYERS, SLOTS, Case, Delta, Gated, Heads, Selective
from tests.ops.wkv import Delta as WkvDelta
from tests.ops.wkv import Plain

CHUNKED = (1, 63, 64, 65, 200)  # rows of sequences: chunks have 64
SEGMENTED = (1, 63, 64, 70)  # segments have 32
BOUND = 4e-6  # of the largest number


class Chunked(Ours):
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
    (WkvDelta, 5, CHUNKED),
]


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("kind", "seed", "lengths"), _CASES)
def test_long_sequences(kind: type[Case], seed: int, lengths: tuple[int, ...], device: str) -> None:
    """In one step, and in two, which end anywhere."""
    case = long(kind, seed, lengths)
    near(*case.computed(Chunked(device), [case.lengths]), case)
    some = [int(n * share) for n, share in zip(case.lengths, (0.9, 0.4, 1, 1, 0.5), strict=False)]
    rest = [n - taken for n, taken in zip(case.lengths, some, strict=True)]
    near(*case.computed(Chunked(device), [some, rest]), case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "steps"),
    [(Heads, 28, 1), (Delta, 28, 3), (Selective, 1, 1), (Plain, 6, 3), (WkvDelta, 5, 3)],
)
def test_decays_from_nearly_one_to_nearly_none(
    kind: type[Case], seed: int, steps: int, device: str
) -> None:
    """A row keeps e^-0.0001 or e^-50 of the state, beside each other in one chunk: what comes
    behind a strong decay is as exact as before it. steps: which rows decide. RWKV 7 keeps e^-0.61
    at least, here in all rows of a chunk."""
    case: Any = long(kind, seed, (100,))
    some = torch.rand(case.rows[steps].shape, generator=torch.Generator().manual_seed(3))
    if kind is WkvDelta:
        case.rows[steps] = torch.where(torch.arange(100)[:, None] < 64, 30.0, 20 - 40 * some)
    elif kind is Plain:  # e^x is 50 or 0.0001, else softplus(x)
        case.rows[steps] = torch.where(some < 0.1, 3.912023, -9.21034)
        case.base = torch.zeros_like(case.base)
    else:
        case.rows[steps] = torch.where(some < 0.1, 50.0, -9.21034)
        case.rates = torch.full_like(case.rates, -1.0)
    if kind in (Heads, Delta):
        case.bias = torch.zeros_like(case.bias)
    near(*case.computed(Chunked(device), [case.lengths]), case)


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
def test_rows_in_order_with_deterministic(device: str) -> None:
    """One step has the bits of the kernel of which a row's bits depend on no step."""
    if device != "cpu":
        pytest.skip("the operations' rows are on the CPU here")
    case = long(Selective, 1, (64,))
    in_order, chunked, always, got = (
        torch.cat([y.flatten(), left.flatten()])
        for ops in (
            *(Ours(device), Chunked(device)),
            *(made("cpu", "f32", pdl=False) for made in (FixedOps, DeviceOps)),
        )
        for (y,), left in [case.computed(ops, [[64]])]
    )
    assert torch.equal(always, in_order)
    assert torch.equal(got, chunked)
    assert not torch.equal(chunked, in_order)


_CARD = (gpu_cases.Ssd, gpu_cases.Delta, gpu_cases.Wkv, gpu_cases.WkvDelta)


_SIZES = [(16, 16, 3), (24, 24, 3), (32, 32, 3), (64, 16, 2), (128, 32, 3), (16, 64, 80)]
_SIZES += [(256, 64, 4), (64, 64, 96), (128, 128, 48)]  # the last two fill a GPU
_FAR = {torch.bfloat16: (8e-3, 4e-5), torch.float16: (1.5e-3, 2e-5), torch.float32: (6e-6, 6e-6)}


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter does not multiply as a card does")
@pytest.mark.parametrize("dtype", _FAR, ids=str)
@pytest.mark.parametrize(("states", "columns", "heads"), _SIZES)
@pytest.mark.parametrize("kind", _CARD)
def test_heads_of_many_sizes(
    kind: type[gpu_cases.Case], states: int, columns: int, heads: int, dtype: torch.dtype
) -> None:
    """Tiles that tensor cores take in other ways: a compiler has made wrong products of narrow
    ones. y is rounded to the model's type, the state is not."""
    if kind in _CARD[2:]:
        columns = states = min(states, 128)
    sizes = {"heads": heads, "states": states, "columns": columns, "groups": 1}
    case = type(kind.__name__, (kind,), sizes)(3, 150, device=DEVICE, dtype=dtype, tiny=False)
    want, left = case.reference()
    state = case.kept.clone()
    y = case.beside_each_other(state, case.places[0])
    of_y, of_state = _FAR[dtype]
    assert (y.double() - want).abs().max() < of_y * want.abs().max()
    assert (case.matrices(state).double() - left).abs().max() < of_state * left.abs().max()


def test_stages_are_as_many_as_shared_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """RWKV 7's loop, of which an H200 holds three stages, and a card with 99 KiB one."""
    one = Sequences(torch.arange(2), torch.arange(1), 2048)
    how = {"heads": 64, "columns": 64, "states": 64, "device": torch.device("cpu"), "pdl": False}
    found = Chunks(one, 2048, dtype=torch.bfloat16, **how)  # type: ignore[arg-type]
    stages = []
    for room in (232_448, 166_912, 101_376):
        monkeypatch.setattr(chunks, "shared_memory", lambda room=room: room)
        _, launch = found.in_order(Tile(32, 4, 3), read=4 * 64 * (3 * 64 + 2 * 64))
        stages.append(launch["STAGES"])
    assert stages == [3, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("strong", [60.0, 200.0])
def test_decays_that_leave_nothing(strong: float, device: str) -> None:
    """e^-e^60 and e^-e^200, whose logarithm is infinite, in the midst of a chunk."""
    case: Any = long(Plain, 6, (70,))
    case.rows[3] = torch.full_like(case.rows[3], -3.0)
    case.rows[3][5:40:7] = strong
    case.base = torch.zeros_like(case.base)
    (y,), left = case.computed(Chunked(device), [case.lengths])
    (want,), kept = case.computed(Ours(device), [case.lengths])
    assert bool(torch.isfinite(y).all())
    assert (y - want).abs().max() < BOUND * want.abs().max()
    assert (left - kept).abs().max() < BOUND * kept.abs().max()


_OPERATIONS: list[tuple[str, int, dict[str, int], int]] = [
    *(("selective_scan", 7, {}, 64), ("linear_scan", 2, {}, 64), ("rg_lru", 6, {}, 64)),
    *(("wkv", 6, {"heads": 1}, 512), ("wkv_delta", 8, {"heads": 1}, 64)),
    *(("ssd", 8, {}, 64), ("gated_delta", 7, {"groups": 1}, 64)),
]


@pytest.mark.parametrize(("name", "rows", "how", "least"), _OPERATIONS)
def test_which_steps_have_which_kernel(
    name: str, rows: int, how: dict[str, int], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows side by side where a sequence has `least` of them, without --deterministic. rows:
    arguments."""
    called: list[bool] = []
    ours = recurrence_ops
    side_by_side = {
        "selective_scan": (ours.state_space, "selective_segments"),
        "wkv": (ours.wkv_chunks, "wkv_chunks"),
        "wkv_delta": (ours.wkv_delta_chunks, "wkv_delta_chunks"),
        "ssd": (ours.ssd_chunks, "ssd_chunks"),
        "gated_delta": (ours.delta_chunks, "gated_delta_chunks"),
    }
    in_order = {
        "linear_scan": ours.linear_scan,
        **dict.fromkeys(("ssd", "selective_scan"), ours.state_space),
        **dict.fromkeys(("wkv", "wkv_delta"), ours.wkv),
    }
    monkeypatch.setattr(
        in_order.get(name, ours), name, lambda *_, **how: called.append(how.get("segments", False))
    )
    if name in side_by_side:
        monkeypatch.setattr(*side_by_side[name], lambda *_, **__: called.append(True))
    kept = FixedState({"kept": torch.zeros(1, 2, 4)}, torch.tensor([1, 0]))
    given = [torch.zeros(1, 1, dtype=torch.bfloat16)] * rows
    for made in (FixedOps, DeviceOps):
        ops = made("cpu", "f32", pdl=False)
        for longest in (1, least - 1, least, 2048):
            starts = [0, 1, longest + 1]
            batch: Any = SimpleNamespace(
                state=[kept],
                seq_starts=torch.tensor(starts),
                seq_starts_host=starts,
                positions=None,
            )
            getattr(ops, name)(*given, StateRef(0, 0), "kept", batch, **how)
    assert called == [False] * 6 + [True] * 2


def test_many_sequences_fill_a_gpu_by_themselves() -> None:
    few, many = (Sequences(torch.arange(n + 1), torch.arange(n), 2048) for n in (2, 3))
    assert segment_rows(few, 4096, 320) > 0
    assert segment_rows(many, 6144, 320) == 0
