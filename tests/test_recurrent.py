"""`Ops.linear_scan` and fixed state, in `reference`: numpy's numbers, and the same bits however
sequences are cut into steps, shared with others, or gone on with from a copy of their state."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from rbee_worker.ops.batch import FixedMemory
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import Fixed, StateBook
from tests import recurrent
from tests.driver import Driver

KINDS = pytest.mark.parametrize("kinds", [recurrent.RECURRENT, recurrent.HYBRID])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prompt(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(recurrent.VOCAB), k=n)


@KINDS
def test_logits_are_numpy_s_and_the_same_bits_in_any_cut(kinds: str) -> None:
    tokens = prompt(300)
    driver = Driver(recurrent.build(ReferenceOps(), kinds), blocks=128)
    (whole,) = driver.feed([(driver.start(tokens), 300)])
    want = recurrent.logits(kinds, tokens)
    assert np.abs(whole.numpy() - want).max() < 1e-5 * np.abs(want).max()
    for cuts in ([1] * 40 + [260], [256, 44], [7, 100, 193]):
        seq = driver.start(tokens)
        assert torch.equal(torch.cat([driver.feed([(seq, n)])[0] for n in cuts]), whole)


@KINDS
def test_a_sequence_in_company_gets_the_bits_it_gets_alone(kinds: str) -> None:
    driver = Driver(recurrent.build(ReferenceOps(), kinds))
    prompts = [prompt(n, seed=n) for n in (100, 33, 5, 41, 1)]
    alone = [driver.feed([(driver.start(p), len(p))])[0] for p in prompts]
    seqs = [driver.start(p) for p in prompts]
    got: list[list[torch.Tensor]] = [[] for _ in prompts]
    rng = random.Random(5)
    while left := [i for i, s in enumerate(seqs) if s.computed < len(s.tokens)]:
        picked = rng.sample(left, rng.randint(1, len(left)))
        counts = [min(rng.choice([1, 2, 20]), len(prompts[i]) - seqs[i].computed) for i in picked]
        out = driver.feed([(seqs[i], n) for i, n in zip(picked, counts, strict=True)])
        for i, logits in zip(picked, out, strict=True):
            got[i].append(logits)
    for parts, want in zip(got, alone, strict=True):
        assert torch.equal(torch.cat(parts), want)


def test_a_copied_state_goes_on_as_the_original_does() -> None:
    driver = Driver(recurrent.build(ReferenceOps(), recurrent.RECURRENT))
    tokens = prompt(60)
    seq = driver.start(tokens)
    driver.feed([(seq, 40)])
    copy = driver.fork(seq)
    (want,) = driver.feed([(seq, 20)])
    (got,) = driver.feed([(copy, 20)])
    assert torch.equal(got, want)
    (both, again) = driver.feed([(driver.start(tokens), 60), (driver.start(tokens), 60)])
    assert torch.equal(both[40:], want)
    assert torch.equal(again[40:], want)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_scan_against_numpy_in_float64(dtype: str) -> None:
    """State is float32 whatever activations are; layers and tensors of one group are apart."""
    ops = ReferenceOps(dtype=dtype)
    book, rng, width = StateBook(), np.random.default_rng(1), 21
    spec = Fixed((("other", (width,)), ("h", (width,))))
    wheres = [book.add(spec) for _ in range(3)]

    class Model:
        groups = book.groups

        def __init__(self) -> None:
            self.ops = ops

    driver = Driver(Model())
    counts = [5, 1, 30]
    seqs = [driver.start([0] * 60) for _ in counts]
    memory = driver.memory.memory[0]  # type: ignore[attr-defined]
    assert isinstance(memory, FixedMemory)
    memory.tensors["h"].normal_()
    memory.tensors["other"].fill_(torch.nan)
    before = memory.tensors["h"].double().numpy().copy()
    n = sum(counts)
    given = [torch.from_numpy(rng.standard_normal((n, width))).to(ops_dtype(dtype)) for _ in "ab"]
    x, decay = given[0], given[1].sigmoid()
    batch = driver.batch(list(zip(seqs, counts, strict=True)))
    got = ops.linear_scan(x, decay, wheres[1], "h", batch)
    assert got.dtype == x.dtype
    start = 0
    for seq, count in zip(seqs, counts, strict=True):
        h = before[1, seq.slot]
        for row in range(start, start + count):
            h = decay[row].double().numpy() * h + x[row].double().numpy()
            error = np.abs(got[row].double().numpy() - h).max()
            assert error < (1e-5 if dtype == "f32" else 0.03)
        kept = memory.tensors["h"][1, seq.slot].double().numpy()
        assert np.abs(kept - h).max() < 1e-5
        start += count
    after = memory.tensors["h"].double().numpy()
    used = [seq.slot for seq in seqs]
    others = [slot for slot in range(after.shape[1]) if slot not in used]
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert (after[1, others] == before[1, others]).all()


def ops_dtype(dtype: str) -> torch.dtype:
    return {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
