"""Whole models replayed: equal to the reference, and the same bits in any schedule.

Kernels are those of the best instruction set; `RBEE_CPU_ISA` chooses another.
"""

from __future__ import annotations

import os
import random
from copy import deepcopy
from dataclasses import replace
from functools import partial

import gguf
import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.archs import ARCHS, VOCAB, oracle, write_checkpoint, write_gguf, write_safetensors
from tests.driver import Driver
from tests.outlines import planned

CHUNKS = ([1] * 12 + [58], [17, 1, 16, 36], [3, 67])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teams():
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    teams = {n: Team(library, n) for n in (1, 2)}
    yield teams
    for team in teams.values():
        team.close()


def prompt(n, seed=0):
    return random.Random(seed).choices(range(3, VOCAB), k=n)


def record(team, path, rows=128, head_rows=8):
    """A model for float32 caches, as `Driver` has them; 70 tokens and more at a time."""
    ops = CpuOps(team._library, team, exact=True)
    shape = Shape(rows, head_rows, 256, 16, "f32")
    return CpuModel(build_model(open_checkpoint(str(path)), ops), ops, shape)


def whole(model, tokens):
    driver = Driver(model)
    return driver.feed([(driver.start(tokens), len(tokens))])[0]


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_rows_of_the_table(arch, teams, tmp_path):
    """Logits at every position equal the reference's, in one chunk and, bitwise, in several."""
    path = write_safetensors(oracle(arch), tmp_path)
    model = record(teams[2], path)
    tokens = prompt(arch.prompt)
    want = whole(build_model(open_checkpoint(str(path)), ReferenceOps()), tokens)
    got = whole(model, tokens)
    assert float((got - want).norm() / want.norm()) < 1e-5
    driver = Driver(model)
    for chunks in CHUNKS:
        seq = driver.start(tokens)
        parts = [driver.feed([(seq, n)])[0] for n in chunks]
        assert torch.equal(torch.cat(parts), got), chunks


@pytest.mark.parametrize("arch", [a for a in ARCHS if a.id in ("llama", "mistral-window")])
def test_two_hundred_random_steps(arch, teams, tmp_path):
    """Chunks and decodes of many sequences in one step, on one thread and on two: the same bits."""
    path = write_safetensors(oracle(arch), tmp_path)
    models = [record(team, path) for team in teams.values()]
    prompts = [prompt(n, seed=n) for n in (70, 33, 16, 5, 41, 64, 1)]
    alone = [whole(models[0], p) for p in prompts]
    rng, steps = random.Random(5), 0
    while steps < 200:
        driver = Driver(models[steps % 2])
        seqs = [driver.start(p) for p in prompts]
        got = [[] for _ in prompts]
        while any(s.computed < len(s.tokens) for s in seqs):
            left = [i for i, s in enumerate(seqs) if s.computed < len(s.tokens)]
            picked = rng.sample(left, rng.randint(1, len(left)))
            counts = [
                min(rng.choice([1, 1, 2, 7, 20]), len(prompts[i]) - seqs[i].computed)
                for i in picked
            ]
            out = driver.feed([(seqs[i], n) for i, n in zip(picked, counts, strict=True)])
            for i, logits in zip(picked, out, strict=True):
                got[i].append(logits)
            steps += 1
        for parts, want in zip(got, alone, strict=True):
            assert torch.equal(torch.cat(parts), want)


def test_a_step_beyond_the_recording_records_again(teams, tmp_path):
    arch = ARCHS[0]
    path = write_safetensors(oracle(arch), tmp_path)
    small, large = record(teams[2], path, rows=4), record(teams[2], path)
    assert torch.equal(whole(small, prompt(70)), whole(large, prompt(70)))


def test_an_empty_step(teams, tmp_path):
    arch = ARCHS[0]
    model = record(teams[2], write_safetensors(oracle(arch), tmp_path))
    driver = Driver(model)
    driver.feed([(driver.start(prompt(5)), 5)])
    assert model.hidden(driver.batch([])).shape == (0, 64)
    assert model.head(np.zeros((0, 64), np.float32)).shape == (0, VOCAB)


def test_gguf_is_the_safetensors_model(teams, tmp_path):
    arch = ARCHS[0]
    hf = oracle(arch)
    gguf, folder = write_gguf(arch, hf, tmp_path / "a.gguf"), tmp_path / "hf"
    tokens = prompt(40)
    a = whole(record(teams[2], gguf), tokens)
    b = whole(record(teams[2], write_safetensors(hf, folder)), tokens)
    assert torch.equal(a, b)


def test_experts_of_four_bits_stay_packed(teams, tmp_path):
    """GPT-OSS as published: MXFP4 from safetensors, held as it is, equal to the reference."""
    (arch,) = (a for a in ARCHS if a.id == "gpt-oss-yarn-mxfp4")
    path = write_checkpoint(arch, tmp_path)
    model = record(teams[2], path)
    assert model.decoder.blocks[0].mlp.experts.up.held == "mxfp4"
    tokens = prompt(arch.prompt)
    want = whole(build_model(open_checkpoint(str(path)), ReferenceOps()), tokens)
    got = whole(model, tokens)
    assert float((got - want).norm() / want.norm()) < 1e-5


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_held_weights_are_no_more_than_planned(arch, teams, tmp_path):
    """The arena has the size of the plan: what the plan forgets would not fit. F32 and, where
    there are such files, Q8_0."""
    paths = [write_checkpoint(arch, tmp_path / "hf")]
    if arch.gguf_arch is not None:
        q8 = gguf.GGMLQuantizationType.Q8_0
        paths.append(write_gguf(arch, oracle(arch), tmp_path / "q8.gguf", q8))
    for path in paths:
        ckpt = open_checkpoint(str(path))
        plan = planned(ckpt)
        ops = CpuOps(teams[1]._library, teams[1])
        build_model(ckpt, ops)
        pieces = 64 * len(ckpt.source.names())  # each begins on a cache line
        assert 0 < ops.arena.used <= sum(plan.held_bytes.values()) + pieces


def decoding(model, n, *, done=20):
    """A driver, n sequences of `done` computed tokens, and the numbers of one more for each."""
    driver = Driver(model)
    seqs = [driver.start(prompt(done + 8, seed=i)) for i in range(n)]
    for seq in seqs:
        driver.feed([(seq, done)])
    numbers = driver.numbers([(seq, 1) for seq in seqs])
    return driver, seqs, replace(numbers, kv_lens_host=list(numbers.kv_lens_host))


def both_models(teams, path):
    reference = ReferenceModel(build_model(open_checkpoint(str(path)), ReferenceOps()))
    return record(teams[2], path), reference


@pytest.mark.parametrize(
    "arch", [a for a in ARCHS if a.id in ("llama", "mistral-window", "gpt-oss")]
)
def test_logits_are_the_head_of_the_hidden_states(arch, teams, tmp_path):
    """Bitwise: in one replay (up to 8 rows), in more than one, and of some rows in any order."""
    path = write_safetensors(oracle(arch), tmp_path)
    for model in both_models(teams, path):
        for n in (1, 2, 7, 8, 9, 11):
            driver, _, numbers = decoding(model, n)
            batch = driver.memory.stage(numbers)
            want = deepcopy(model.head(deepcopy(model.hidden(batch))))
            assert equal(model.logits(batch), want)
            assert equal(model.logits(batch), want)
        driver = Driver(model)
        numbers = driver.numbers([(driver.start(prompt(n, seed=n)), n) for n in (5, 1, 9)])
        every = deepcopy(model.head(deepcopy(model.hidden(driver.memory.stage(numbers)))))
        for rows in ([4, 5, 14], [14, 0], [5], [3, 3], list(range(14, -1, -1)), []):
            some = replace(numbers, sample_rows=np.array(rows, np.int64))
            assert equal(model.logits(driver.memory.stage(some)), every[rows])


def equal(a, b):
    """Of a backend's own arrays."""
    return np.array_equal(np.asarray(a), np.asarray(b))


def overwrite(numbers, other):
    """Other numbers into the arrays and lists of a step, as an engine does that decodes."""
    for name in ("tokens", "positions", "kv_lens", "rope_lens"):
        np.copyto(getattr(numbers, name), getattr(other, name))
    for mine, others in zip(numbers.places, other.places, strict=True):
        np.copyto(mine.table, others.table)
        np.copyto(mine.slots, others.slots)
    numbers.kv_lens_host[:] = other.kv_lens_host


@pytest.mark.parametrize("id_", ["llama", "mistral-window", "llama-dynamic", "phi3-long"])
def test_a_batch_may_come_again_with_other_numbers(id_, teams, tmp_path):
    """Every step's numbers count, however well the batch is known; others may come between."""
    (arch,) = (a for a in ARCHS if a.id == id_)
    path = write_safetensors(oracle(arch), tmp_path)
    models = [record(teams[2], path) for _ in range(2)]
    (driver, seqs, again), (fresh, others, _) = (decoding(m, 3, done=33) for m in models)
    for step in range(6):
        overwrite(again, driver.numbers([(seq, 1) for seq in seqs]))
        got = models[0].logits(driver.memory.stage(again))
        assert equal(got, models[1].logits(fresh.batch([(seq, 1) for seq in others])))
        for seq in (*seqs, *others):
            seq.computed += 1
        if step == 2:
            driver.feed([(driver.start(prompt(9)), 9)])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: batch.state[0].slots.fill(64 * 16),
        lambda batch: batch.state[0].slots[1:].fill(-1),
        lambda batch: batch.state[0].table[1:].fill(64),
        lambda batch: batch.state[0].table[:1].fill(-1),
        lambda batch: batch.seq_starts[1:].fill(2),
        lambda batch: batch.kv_lens_host.append(3),
        lambda batch: batch.kv_lens_host.__setitem__(0, 16 * 16),
    ],
)
def test_wrong_numbers_are_found_in_a_known_batch_too(spoil, teams, tmp_path):
    model = record(teams[2], write_safetensors(oracle(ARCHS[0]), tmp_path))
    driver, _, numbers = decoding(model, 3)
    batch = driver.memory.stage(numbers)
    for known in (False, True):
        spoilt = Batch(
            **{
                **vars(batch),
                "seq_starts": batch.seq_starts.copy(),
                "kv_lens_host": list(batch.kv_lens_host),
                "state": tuple(
                    PagedState(s.k, s.v, s.table.copy(), s.slots.copy()) for s in batch.state
                ),
            }
        )
        if known:
            model.logits(spoilt)
        spoil(spoilt)
        for call in (model.logits, model.hidden):
            with pytest.raises(AssertionError):
                call(spoilt)
    model.logits(batch)


def test_arrays_of_other_kinds_are_refused(teams, tmp_path):
    model = record(teams[2], write_safetensors(oracle(ARCHS[0]), tmp_path))
    driver, _, numbers = decoding(model, 3)
    batch = driver.memory.stage(numbers)
    (state,) = batch.state
    for change in (
        {"tokens": batch.tokens[:2]},
        {"positions": batch.positions.astype(np.int32)},
        {"kv_lens": np.zeros(6, np.int64)[::2]},
        {"state": (PagedState(state.k, state.v, state.table.astype(np.int64), state.slots),)},
        {"state": (PagedState(state.k.astype(np.float16), state.v, state.table, state.slots),)},
        {"state": (PagedState(state.k, state.v, state.table[:2], state.slots),)},
    ):
        with pytest.raises(AssertionError):
            model.logits(Batch(**{**vars(batch), **change}))


def test_decoding_is_one_replay(teams, tmp_path, monkeypatch):
    model = record(teams[2], write_safetensors(oracle(ARCHS[0]), tmp_path))
    decode = partial(decoding, model)
    few, many = (driver.memory.stage(numbers) for driver, _, numbers in map(decode, (8, 9)))
    replays, replay = [], model.team.replay
    monkeypatch.setattr(model.team, "replay", lambda *a: (replays.append(a), replay(*a)))
    for batch, count in ((few, 1), (many, 3)):  # nine rows: hidden states, and the head twice
        replays.clear()
        model.logits(batch)
        assert len(replays) == count
