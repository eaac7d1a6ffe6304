"""What adapters add equals float64's, on every instruction set, and a row's bits are its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from rbee_worker.ops.adapted import NUMPY, Factors, Form, Site, Sites, held
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.shared import isa
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_backend import numbers, rows_of

COLS, ROWS = 72, (100, 64, 24)  # of x; of the parts of y
USED = [1, 1, 1, 1, 0, 2, 2, 1, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0]
Pair = tuple[np.ndarray, np.ndarray, float]  # A and B in float64, scale


def rounded(array: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """The array in a form, and the same numbers in float64."""
    tensor = torch.from_numpy(array.astype(np.float32))
    if form == "bf16":
        short = tensor.bfloat16()
        return short.view(torch.uint16).numpy(), short.double().numpy()
    kept = array.astype(NUMPY[form])
    return kept, kept.astype(np.float64)


def filled(eager: Eager, form: Form) -> tuple[Site, dict[tuple[int, int], Pair]]:
    """A site of three parts and three adapters: of all parts, of one, and of the highest rank."""
    sites = Sites(3, 19)
    eager.ops.sites, eager.ops._adapters = sites, None
    sites.add([("other", 8)], 16)
    site = sites.add([(f"part{n}", rows) for n, rows in enumerate(ROWS)], COLS)
    rng, pairs = np.random.default_rng(5), {}
    for slot, ranks in ((1, (4, 3, 8)), (2, (0, 6, 0)), (3, (19, 16, 1))):
        placed: list[Factors | None] = []
        for part, rank in enumerate(ranks):
            if not rank:
                placed.append(None)
                continue
            a, a64 = rounded(rng.standard_normal((rank, COLS)), form)
            b, b64 = rounded(rng.standard_normal((ROWS[part], rank)), form)
            placed.append(held(a, b, 0.5 * slot, form))
            pairs[slot, part] = (a64, b64, 0.5 * slot)
        eager.ops.adapters.put(slot, {site.number: tuple(placed)})
    return site, pairs


def batch_of(slots: list[int]) -> Batch:
    return replace(rows_of([0] * len(slots)), adapters=torch.tensor(slots))


@pytest.fixture(scope="module", params=isa.names())
def eager(request: pytest.FixtureRequest) -> Iterator[Eager]:
    made = Eager(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def single() -> Iterator[Eager]:
    """The best instruction set, one thread."""
    made = Eager(threads=1)
    yield made
    made.close()


@pytest.mark.parametrize("form", ["f32", "f16", "bf16"])
def test_rows_get_what_their_adapter_adds(eager: Eager, single: Eager, form: Form) -> None:
    site, pairs = filled(eager, form)
    x, y = numbers(len(USED), COLS), numbers(len(USED), sum(ROWS), seed=1)
    got = eager.adapted(y, x, site, batch_of(USED))
    want = y.double().numpy()
    for row, slot in enumerate(USED):
        for part, place in enumerate(site.parts):
            if (slot, part) in pairs:
                a, b, scale = pairs[slot, part]
                more = scale * (b @ (a @ x[row].double().numpy()))
                want[row, place.first : place.first + place.rows] += more
    assert np.abs(got.numpy() - want).max() < 1e-5 * np.abs(want).max()
    plain = [row for row, slot in enumerate(USED) if slot == 0]
    assert torch.equal(got[plain], y[plain]), "rows without an adapter keep their bits"
    for row, slot in enumerate(USED):
        alone = eager.adapted(y[row : row + 1], x[row : row + 1], site, batch_of([slot]))
        assert torch.equal(alone[0], got[row]), row
    there, _ = filled(single, form)
    assert torch.equal(single.adapted(y, x, there, batch_of(USED)), got)


def test_many_rows_are_shared_by_rows_and_few_by_columns(eager: Eager, single: Eager) -> None:
    """The same bits either way."""
    site, _ = filled(eager, "f16")
    many = [1 + n // 7 % 3 for n in range(70)]
    x, y = numbers(70, COLS), numbers(70, sum(ROWS), seed=1)
    got = eager.adapted(y, x, site, batch_of(many))
    for first in range(0, 70, 10):
        part = slice(first, first + 10)
        some = eager.adapted(y[part], x[part], site, batch_of(many[part]))
        assert torch.equal(some, got[part])
    there, _ = filled(single, "f16")
    assert torch.equal(single.adapted(y, x, there, batch_of(many)), got)


def test_an_emptied_slot_adds_nothing(single: Eager) -> None:
    site, _ = filled(single, "f32")
    x, y = numbers(2, COLS), numbers(2, sum(ROWS), seed=1)
    single.ops.adapters.drop(1)
    got = single.adapted(y, x, site, batch_of([1, 3]))
    assert torch.equal(got[0], y[0])
    assert not torch.equal(got[1], y[1])
