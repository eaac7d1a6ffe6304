"""Models with recurrent layers through the real engine, on `reference` and on `cpu`: the same
tokens and log-probabilities, bit for bit, in random schedules with snapshots, and numpy's tokens of
toy models, transformers' of tiny ones from files.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Submit
from rbee_worker.models import build_model
from rbee_worker.models.base import Decoder
from rbee_worker.ops import Ops
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.pool import StatePool
from rbee_worker.types import SamplingParams
from tests import recurrent
from tests.archs import ARCHS, Arch, oracle, write_checkpoint
from tests.engine.schedules import Answer, each_alone, random_schedule

BLOCK, MAX_SEQS, CONTEXT, EVERY = 16, 6, 256, 32
POOLS = [10, 12, 40]  # blocks: tight ones preempt where there is attention
# Seeds of schedules: the others are for the long suite.
SCHEDULES = [range(4), pytest.param(range(4, 8), marks=pytest.mark.long)]
# No layer has attention.
ALONE = ("mamba", "falcon-mamba", "mamba2", "rwkv5", "rwkv6", "rwkv7")
GROWING = ("granite4", "lfm2", "jamba", "qwen3-next")  # layers with attention see all tokens
WITH_ATTENTION = (*GROWING, "recurrent-gemma", "based")
FROM_FILES: dict[str, Arch] = {a.id: a for a in ARCHS if a.id in (*ALONE, *WITH_ATTENTION)}
KINDS = [recurrent.RECURRENT, recurrent.HYBRID, *FROM_FILES]
# Schedules take long; these have each kind of recurrence, and one hybrid.
QUICK = (recurrent.RECURRENT, recurrent.HYBRID, "mamba", "rwkv7", "granite4")
SCHEDULED = [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.kernels)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(ops: Ops, kinds: str) -> Decoder:
    """A toy model, or the tiny one of a row of tests/archs."""
    if kinds not in FROM_FILES:
        return recurrent.build(ops, kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint(FROM_FILES[kinds], Path(folder))
        return build_model(open_checkpoint(str(path)), ops)


def exact(kinds: str, tokens: list[int]) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """Logits [T, vocab] by numpy, or by transformers."""
    if kinds not in FROM_FILES:
        return recurrent.logits(kinds, tokens)
    with torch.inference_mode():
        logits: np.ndarray[Any, np.dtype[np.floating[Any]]] = (
            oracle(FROM_FILES[kinds])(torch.tensor([tokens])).logits[0].double().numpy()
        )
    return logits


@cache
def model(kinds: str, backend: str) -> Any:
    if backend == "reference":
        return ReferenceModel(build(ReferenceOps(), kinds))
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    ops = CpuOps(library, Team(library, 2), exact=True)
    return CpuModel(build(ops, kinds), ops, Shape(64, 4, CONTEXT, BLOCK, "f32"))


def engine(kinds: str, backend: str, blocks: int, budget: int, *, snapshots: int = 5) -> Engine:
    made = model(kinds, backend)
    pool = StatePool(
        made.groups,
        tokens=blocks * BLOCK,
        block_size=BLOCK,
        max_seqs=MAX_SEQS,
        step_tokens=budget,
        snapshots=snapshots,
        snapshot_tokens=EVERY,
    )
    state = CpuState if backend == "cpu" else TorchState
    ops = made.ops if backend == "cpu" else made.decoder.ops
    return make_engine(
        made,
        state(made.groups, pool.n_blocks, pool.n_slots, block_size=BLOCK, dtype="f32"),
        ops.sampling(made.vocab_size),
        pool,
        token_budget=budget,
        max_seqs=MAX_SEQS,
        context=min(CONTEXT, blocks * BLOCK),
    )


@cache
def requests() -> list[Submit]:
    """Prompts of 1 to 90 tokens that often begin alike; greedy and drawn, with log-probabilities
    and some with the scores of their prompts."""
    rng = random.Random(4)
    shared = rng.choices(range(recurrent.VOCAB), k=80)
    made = []
    for i in range(14):
        start = shared[: rng.choice([0, 33, 50, 80])]
        own = rng.choices(range(recurrent.VOCAB), k=rng.choice([1, 3, 10]))
        params = SamplingParams(
            temperature=0.0 if i % 2 else 1.0,
            max_tokens=rng.choice([1, 9, 20, 45]),
            seed=100 + i,
            logprobs=2,
        )
        made.append(
            Submit(
                seq=f"r{i}", prompt_ids=(*start, *own), params=params, prompt_logprobs=i % 5 == 0
            )
        )
    return made


@cache
def alone(kinds: str, backend: str) -> dict[str, Answer]:
    """Each request by itself, with nothing to go on from."""
    make = partial(engine, kinds, backend, snapshots=0)
    return each_alone(make, requests(), blocks=40)


@pytest.mark.parametrize("seeds", SCHEDULES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kinds", SCHEDULED)
def test_the_same_bits_in_random_schedules(kinds: str, backend: str, seeds: range) -> None:
    seen: Counter[str] = Counter()
    want = alone(kinds, backend)
    for seed in seeds:
        seen += random_schedule(partial(engine, kinds, backend), requests(), want, POOLS, seed)
    # Otherwise too little of what this test is about has happened.
    assert seen["cached"] >= 32 * len(seeds), seen
    assert seen["shared steps"] >= 10 * len(seeds), seen
    assert seen["preempted"] >= (len(seeds) / 4 if kinds in (recurrent.HYBRID, *GROWING) else 0), (
        seen
    )
    assert seen["compared"] >= 40 * len(seeds), seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kinds", KINDS)
def test_greedy_tokens_and_their_probabilities_are_exact(kinds: str, backend: str) -> None:
    checked = 0
    for request in requests():
        if request.params.temperature:
            continue
        answer = alone(kinds, backend)[request.seq]
        tokens = [*request.prompt_ids, *answer.ids]
        logits = exact(kinds, tokens)[len(request.prompt_ids) - 1 : -1]
        assert answer.ids == logits.argmax(-1).tolist()
        shifted = logits - logits.max(-1, keepdims=True)
        expected = -np.log(np.exp(shifted).sum(-1))  # of the best token
        got = [told.logprob for told in answer.logprobs]
        # transformers' float32 is as far from float64 as ours: as near as every row is held to it.
        bound = 1e-4 * np.abs(logits).max() if kinds in FROM_FILES else 1e-4
        assert np.abs(np.array(got) - expected).max() < bound
        checked += len(answer.ids)
    assert checked > 100
