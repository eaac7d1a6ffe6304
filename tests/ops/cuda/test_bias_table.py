"""Edits of logits on the device are torch's bit for bit, and are undone bit for bit."""

from __future__ import annotations

import numpy as np
import torch

from rbee_worker.engine.sampler import Sampler
from rbee_worker.ops.cuda.bias_table import CudaBiasTable
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
    new = [(1, 3, 9), (4, 1, 8), (1, 4, 699)]
    changes = [(1, 3, 2, 1), (1, 3, 3, 1), (2, 5, 2, -1), (4, 1, 3, 1), (4, 1, 3, 1)]
    for table in (ours, torchs):
        table.add(new)
        table.count(changes)
    used[1], used[4] = 5, 2
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
