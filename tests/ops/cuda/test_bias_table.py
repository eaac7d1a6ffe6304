"""Edits of logits on the device are torch's bit for bit, and are undone bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rbee_worker.engine.penalties import Change, Penalties
from rbee_worker.engine.sampler import Sampler
from rbee_worker.ops.cuda.bias_table import CudaBiasTable
from rbee_worker.ops.cuda.drawn import CudaIds
from rbee_worker.ops.cuda.sampling import CudaSampling
from rbee_worker.ops.reference.sampling.torch_sampling import TorchBiasTable, TorchSampling
from rbee_worker.ops.sampling import Edits
from rbee_worker.types import SamplingParams

SLOTS, VOCAB = 5, 700


def entries(rng: np.random.Generator, n: int) -> tuple[list[int], list[list[float]]]:
    ids = rng.permutation(VOCAB)[:n].tolist()
    values = np.stack(
        [
            rng.choice([0, 0, 1.5, -100], n),
            rng.choice([0, 0, 1], n),
            rng.integers(0, 3, n),
            rng.integers(0, 4, n),
        ],
        axis=1,
    )
    return ids, values.tolist()


def test_edits_equal_torchs(device: str) -> None:
    rng = np.random.default_rng(0)
    ours, torchs = (
        CudaBiasTable(SLOTS, torch.device(device)),
        TorchBiasTable(SLOTS, torch.device("cpu")),
    )
    used = [0, 3, 300, 40, 1]
    for slot, n in enumerate(used):
        factors = tuple(rng.choice([0.5, 1.1, 1.7, -2.0], 3).tolist())
        for table in (ours, torchs):
            table.write(slot, *entries(np.random.default_rng(slot), n), factors)
    for slot, n in enumerate(used):
        assert ours.values(slot, n) == torchs.values(slot, n)
    z = torch.from_numpy(rng.standard_normal((6, VOCAB)).astype("f4") * 5)
    z[:, 3], z[:, 4] = 0.0, -torch.inf
    for flags in ((True, True, True), (False, True, False), (True, False, False)):
        slots = [4, 1, 2, 1]
        edits = Edits(
            [5, 0, 2, 3], slots, [used[s] for s in slots], [True, False, True, True], *flags
        )
        mine, theirs = z.clone().to(device), z.clone()
        undo = ours.apply(mine, edits)
        torchs.apply(theirs, edits)
        assert torch.equal(mine.cpu().view(torch.int32), theirs.view(torch.int32))
        undo(mine)
        assert torch.equal(mine.cpu().view(torch.int32), z.view(torch.int32))
    ours.clear()
    ours.write(0, [7], [[1.0, 0.0, 0.0, 0.0]], (1.0, 0.0, 0.0))
    assert ours.values(0, 1) == [[1.0, 0.0, 0.0, 0.0]]


KINDS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "repeat_last_n": 2},
    {"repetition_penalty": 1.2, "repeat_last_n": 7, "presence_penalty": 0.5},
    {"frequency_penalty": 0.7, "logit_bias": {3: 4.0}},
    {"logit_bias": {5: -1.0}, "min_tokens": 4},
]


def test_draws_are_counted_before_the_host_knows_them(device: str) -> None:
    """Counts after every step are the host's, although a step's ids are known one step later; a
    token may be new, known, exempt, or the one that leaves the window; rows may draw nothing, and a
    slot may get another sequence while its last draw is not collected."""
    vocab, rng = 12, np.random.default_rng(1)
    late = Penalties(vocab, CudaBiasTable(SLOTS, torch.device(device)))
    host = Penalties(vocab, TorchBiasTable(SLOTS, torch.device("cpu")))
    prompt = [1, 2, 2, 7, 5]

    def add(slot: int, output: list[int]) -> None:
        for penalties in (late, host):
            params = SamplingParams(**KINDS[slot])
            penalties.add(slot, params, prompt, output, eos_ids=[0], exempt_ids=[4, 6, 9])

    for slot in range(SLOTS):
        add(slot, [])
        assert late.counts_draws(slot) == (slot < 4)
        assert not late.waits(slot)
        assert host.waits(slot) == (slot < 4)
    collected: tuple[Change, list[int]] | None = None
    for step in range(40):
        slots = rng.permutation(SLOTS)[: rng.integers(1, SLOTS + 1)].tolist()
        ids = rng.integers(0, vocab, len(slots))
        ids[rng.random(len(slots)) < 0.05] = -1
        index = [5 + step] * len(slots)
        changes = [p.prepare(slots, index) for p in (late, host)]
        if changes[0] is None or changes[1] is None:
            continue
        z = torch.from_numpy(rng.standard_normal((len(slots), vocab)).astype("f4"))
        edited = [z.clone().to(device), z.clone()]
        for penalties, logits, change in zip((late, host), edited, changes, strict=True):
            assert change is not None
            undo = penalties.apply(logits, change)
            kept = logits.clone()
            if undo is not None:
                undo(logits)
            assert torch.equal(logits.cpu(), z)
            logits.copy_(kept)
        assert torch.equal(edited[0].cpu(), edited[1])
        late.push(changes[0], CudaIds(torch.tensor(ids, dtype=torch.int32, device=device)))
        if collected is not None:
            late.count(*collected)
        collected = changes[0], ids.tolist()
        host.count(changes[1], ids.tolist())
        for slot, token in zip(slots, ids, strict=True):
            if token < 0 or (slot == 1 and step % 13 == 12):  # another sequence comes
                add(slot, [3, 3, 8])
    assert collected is not None
    late.count(*collected)
    for slot in range(SLOTS):
        assert late.counts(slot) == host.counts(slot)
    assert len(host.counts(0)) > 5


def test_a_window_of_one_token_waits(device: str) -> None:
    late = Penalties(9, CudaBiasTable(1, torch.device(device)))
    params = SamplingParams(repetition_penalty=1.3, repeat_last_n=1)
    late.add(0, params, [1], [], eos_ids=[], exempt_ids=[])
    assert late.waits(0)
    for token in (4, 4, 2):
        change = late.prepare([0], [1])
        assert change is not None
        late.push(change, CudaIds(torch.tensor([token], dtype=torch.int32, device=device)))
        late.count(change, [token])
        assert late.counts(0) == {token: (1, 0)}


def test_a_sampler_draws_the_same_tokens(device: str) -> None:
    """Penalties that count draws, seeds and greedy rows, in one batch."""
    kinds = [
        {"temperature": 0},
        {"seed": 1, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.7, "logprobs": 2},
        {"seed": 3, "logit_bias": {3: 4.0}, "presence_penalty": 1.0, "min_tokens": 3},
    ]
    z = np.random.default_rng(0).standard_normal((4, VOCAB)).astype("f4")
    found = []
    for sampling, put in (
        (CudaSampling(torch.device(device), VOCAB), lambda t: t.to(device)),
        (TorchSampling(torch.device("cpu")), lambda t: t),
    ):
        sampler = Sampler(VOCAB, 4, sampling)
        for slot, kind in enumerate(kinds):
            sampler.add(slot, SamplingParams(**kind), [1, 2, 3] * 5, eos_ids=[3])  # type: ignore[arg-type]
        drawn = []
        for step in range(4):
            prepared = sampler.prepare(range(4), [15 + step] * 4)
            drawn.append(sampler.collect(sampler.sample(put(torch.from_numpy(z)), prepared)))
        found.append(drawn)
    for mine, theirs in zip(*found, strict=True):
        assert mine.ids == theirs.ids
        assert mine.logprobs[2].top[0][0] == theirs.logprobs[2].top[0][0]
        assert abs(mine.logprobs[2].logprob - theirs.logprobs[2].logprob) < 1e-12
