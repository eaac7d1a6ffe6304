"""Recurrent state on the cpu backend: toy models on every instruction set, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.batch import FixedState
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.outline import OutlineOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.recorder import Recorder
from rbee_worker.ops.cpu.runtime.recording import Recording
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import step
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import CrossKV, StateGroup, StateRef
from tests import recurrent
from tests.driver import Driver
from tests.ops.cpu.eager import Eager
from tests.ops.reference.test_ops import make_batch

KINDS = pytest.mark.parametrize("kinds", [recurrent.RECURRENT, recurrent.HYBRID])
SHAPE = Shape(128, 8, 512, 16, "f32")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def record(library: Library, kinds: str, threads: int) -> CpuModel:
    ops = CpuOps(library, Team(library, threads), exact=True)
    return CpuModel(recurrent.build(ops, kinds), ops, SHAPE)


def prompt(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(recurrent.VOCAB), k=n)


def whole(model: object, tokens: list[int]) -> torch.Tensor:
    driver = Driver(model)
    return driver.feed([(driver.start(tokens), len(tokens))])[0]


@KINDS
def test_it_is_numpy_s_numbers_in_any_schedule_the_same_bits(library: Library, kinds: str) -> None:
    models = [record(library, kinds, n) for n in (1, 2, 3)]
    prompts = [prompt(n, seed=n) for n in (100, 33, 16, 5, 64, 1)]
    alone = [whole(models[0], p) for p in prompts]
    for tokens, got in zip(prompts, alone, strict=True):
        want = recurrent.logits(kinds, tokens)
        assert np.abs(got.numpy() - want).max() < 1e-5 * np.abs(want).max()
    rng = random.Random(5)
    for model in models:
        driver = Driver(model)
        seqs = [driver.start(p) for p in prompts]
        parts: list[list[torch.Tensor]] = [[] for _ in prompts]
        while left := [i for i, s in enumerate(seqs) if s.computed < len(s.tokens)]:
            picked = rng.sample(left, rng.randint(1, len(left)))
            sizes = [rng.choice([1, 1, 2, 20]) for _ in picked]
            counts = [
                (seqs[i], min(n, len(prompts[i]) - seqs[i].computed))
                for i, n in zip(picked, sizes, strict=True)
            ]
            for i, logits in zip(picked, driver.feed(counts), strict=True):
                parts[i].append(logits)
        for got_parts, want_bits in zip(parts, alone, strict=True):
            assert torch.equal(torch.cat(got_parts), want_bits)


@pytest.mark.parametrize("width", [1, 16, 53])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_scan_has_the_bits_of_the_reference(threads: int, width: int) -> None:
    """Results and the state that is left: both round the product and the sum."""
    torch.manual_seed(0)
    counts = [5, 0, 1, 30]
    batch = make_batch([(n + 3, n) for n in counts], heads=1)
    x, decay = torch.randn(sum(counts), width), torch.rand(sum(counts), width)
    before = {name: torch.randn(2, 9, width) for name in ("other", "h")}
    slots = torch.tensor([4, 8, 1, 3])
    eager, results = Eager(threads=threads), []
    for ops in (eager, ReferenceOps()):
        tensors = {name: tensor.clone() for name, tensor in before.items()}
        given = replace(batch, state=(*batch.state, FixedState(tensors, slots)))
        results.append((ops.linear_scan(x, decay, StateRef(1, 1), "h", given), tensors))
    eager.close()
    (got, left), (want, expected) = results
    assert torch.equal(got, want)
    for name, tensor in expected.items():
        assert torch.equal(left[name], tensor)
    changed = (left["h"] != before["h"]).any(-1).nonzero().tolist()
    assert changed == [[1, 1], [1, 3], [1, 4]]


def test_a_copied_slot_goes_on_as_the_original_does(best: Library) -> None:
    driver = Driver(record(best, recurrent.RECURRENT, 2))
    tokens = prompt(60)
    seq = driver.start(tokens)
    driver.feed([(seq, 40)])
    copy = driver.fork(seq)
    (want,) = driver.feed([(seq, 20)])
    (got,) = driver.feed([(copy, 20)])
    assert torch.equal(got, want)


def test_wrong_slots_and_tensors_are_found(best: Library) -> None:
    """Before a kernel follows them."""
    model = record(best, "r", 1)
    driver = Driver(model)
    numbers = driver.numbers([(driver.start(prompt(3)), 3)])
    (places,) = numbers.places
    for slot in (24, -1):  # the driver has 24
        spoilt = replace(numbers, places=(replace(places, slots=np.array([slot])),))
        with pytest.raises(AssertionError):
            model.hidden(driver.memory.stage(spoilt))
    batch = driver.memory.stage(numbers)
    (state,) = batch.state
    (tensor,) = state.tensors.values()  # type: ignore[union-attr]
    for other in (tensor.astype(np.float64), tensor[:, :, :-1], tensor[:, ::2]):
        with pytest.raises(AssertionError):
            model.hidden(replace(batch, state=(replace(state, tensors={"h": other}),)))
    model.hidden(batch)


def test_a_record_has_room_for_as_many_tensors_as_it_says() -> None:
    assert step.tensor_at(2, step.TENSORS - 1) + step.TENSOR_BYTES <= step.group_at(2) + step.SLOTS
    with pytest.raises(AssertionError):
        step.tensor_at(0, step.TENSORS)


def test_attention_over_a_source_is_refused_by_name() -> None:
    ops, recorder = OutlineOps(), Recorder(1, 1)
    ops.recording = Recording(recorder, (StateGroup(CrossKV(1, 16, 16), 1),), "f32", 16, 64)
    q = recorder.buffer(16)
    with pytest.raises(UnsupportedModel, match='does not have the operation "attend over a source'):
        ops.attend(q, q, q, StateRef(0, 0), None, heads=1, scale=1.0, causal=False)  # type: ignore[arg-type]
