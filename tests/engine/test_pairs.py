"""Models of an encoder and a decoder through the real engine, on `reference` and on `cpu`:
transformers' tokens and log-probabilities, and the same bits in random schedules."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Finished, Submit
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
from tests import pairs
from tests.engine.schedules import Run, each_alone, random_schedule

BLOCK, MAX_SEQS, CONTEXT = 16, 6, 512
ROOM = 80  # blocks for the longest request
POOLS = [7, 8, 40]  # blocks in schedules: answers outgrow the first ones
SCHEDULES = 12
BACKENDS = ("reference", "cpu")
FORMATS = ("safetensors", "gguf")
IDS = [row.id for row in pairs.ROWS]
# llama.cpp's files have no farthest distance, and gates are of one kind only.
CASES = [
    (name, kind) for name in IDS for kind in FORMATS if not (name == "near" and kind == "gguf")
]
QUICK = [("t5", "gguf"), ("flan", "safetensors"), ("umt5", "gguf")]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(ops: Ops, name: str, kind: str) -> Decoder:
    with TemporaryDirectory() as folder:
        if kind == "gguf":
            path = pairs.write_gguf(name, Path(folder) / "m.gguf")
        else:
            path = pairs.write(name, Path(folder))
        return build_model(open_checkpoint(str(path)), ops)


@cache
def model(name: str, kind: str, backend: str) -> Any:
    if backend == "reference":
        return ReferenceModel(build(ReferenceOps(), name, kind))
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    ops = CpuOps(library, Team(library, 2), exact=True)
    return CpuModel(build(ops, name, kind), ops, Shape(64, 4, 64, BLOCK, "f32"))


def engine(name: str, kind: str, backend: str, blocks: int, budget: int, **how: Any) -> Engine:
    made = model(name, kind, backend)
    pool = StatePool(
        made.groups,
        tokens=blocks * BLOCK,
        block_size=BLOCK,
        max_seqs=MAX_SEQS,
        step_tokens=budget,
    )
    state = CpuState if backend == "cpu" else TorchState
    return make_engine(
        made,
        state(made.groups, pool.n_blocks, pool.n_slots, block_size=BLOCK, dtype="f32"),
        made.decoder.ops.sampling(made.vocab_size),
        pool,
        token_budget=budget,
        max_seqs=MAX_SEQS,
        context=min(CONTEXT, blocks * BLOCK),
        start=made.decoder.start,
        **how,
    )


@cache
def requests() -> list[Submit]:
    """Sources of 1 to 380 tokens (several spans of keys, beyond the farthest distance); greedy and
    drawn, with log-probabilities, some with penalties."""
    rng = random.Random(4)
    made = []
    for i, length in enumerate([1, 5, 16, 33, 60, 140, 300, 380]):
        params = SamplingParams(
            temperature=0.0 if i % 2 else 1.0,
            max_tokens=rng.choice([9, 20, 25]),
            seed=100 + i,
            logprobs=3,
            repetition_penalty=1.2 if i % 3 == 0 else 1.0,
        )
        ids = tuple(rng.choices(range(2, pairs.VOCAB), k=length))
        made.append(Submit(seq=f"r{i}", prompt_ids=ids, params=params))
    return made


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_log_probabilities_are_those_of_transformers(name: str, kind: str, backend: str) -> None:
    found = each_alone(partial(engine, name, kind, backend), requests(), ROOM)
    for request in requests():
        answer = found[request.seq]
        assert len(answer.ids) == request.params.max_tokens
        want = pairs.logprobs(name, list(request.prompt_ids), answer.ids)
        if request.params.repetition_penalty != 1.0:
            continue  # log-probabilities are after penalties; the next test compares those
        got = [row.logprob for row in answer.logprobs]
        chosen = want[np.arange(len(answer.ids)), answer.ids]
        assert np.abs(np.array(got) - chosen).max() < 5e-5
        if not request.params.temperature:
            assert answer.ids == want.argmax(-1).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_penalties_count_the_answer_and_not_the_source(backend: str) -> None:
    """As in transformers, whose processor sees the decoder's tokens only, with its first one."""
    ids = tuple(random.Random(1).choices(range(2, pairs.VOCAB), k=40))
    params = SamplingParams(temperature=0.0, max_tokens=12, repetition_penalty=1.7)
    run = Run(engine("t5", "safetensors", backend, ROOM, 64))
    run.submit(Submit(seq="a", prompt_ids=ids, params=params))
    run.end()
    generate: Any = pairs.oracle("t5").generate
    want = generate(
        torch.tensor([ids]),
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        repetition_penalty=1.7,
    )
    assert run.answers["a"].ids == want[0, 1:].tolist()


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("flan", "cpu"),
        *(pytest.param(name, "cpu", marks=pytest.mark.slow) for name in ("t5", "umt5")),
        pytest.param("flan", "reference", marks=pytest.mark.slow),
        *(pytest.param(name, "reference", marks=pytest.mark.long) for name in ("t5", "umt5")),
    ],
)
def test_random_schedules_give_the_same_bits(name: str, backend: str) -> None:
    """Batches, preemption, requests that go on after a restart, cancelled ones, drafts."""
    make = partial(engine, name, "safetensors", backend, speculate="ngram")
    some = [
        structs.replace(r, params=structs.replace(r.params, max_tokens=20 + 7 * n))
        for n, r in enumerate(requests())
        if len(r.prompt_ids) < 100
    ]
    want = each_alone(partial(engine, name, "safetensors", backend), some, ROOM)
    seen: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        seen += random_schedule(make, some, want, POOLS, seed)
    assert seen["preempted"]
    assert seen["shared steps"]
    assert seen["resumed"]
    assert not seen["cached"]


def test_without_a_cache_the_source_is_read_for_every_token() -> None:
    make = partial(engine, "t5", "safetensors", "reference")
    some = requests()[:4]
    want = each_alone(make, some, ROOM)
    got = each_alone(partial(make, kv_cache=False), some, ROOM)
    assert repr(got) == repr(want)


def test_an_empty_source_is_refused() -> None:
    made = engine("t5", "safetensors", "reference", ROOM, 64)
    made.submit(Submit(seq="a", prompt_ids=(), params=SamplingParams(max_tokens=3)))
    (finished,) = [out for out in made.step() if isinstance(out, Finished)]
    assert finished.error is not None
    assert "0 tokens, but 1 to 512 are possible" in finished.error


def test_source_and_answer_share_the_context() -> None:
    made = engine("t5", "safetensors", "reference", 3, 64)  # 48 tokens
    run = Run(made)
    params = SamplingParams(max_tokens=99, temperature=0.0, min_tokens=99)
    run.submit(Submit(seq="a", prompt_ids=(5,) * 30, params=params))
    run.end()
    assert run.answers["a"].rule == "CONTEXT_FULL"
    assert len(run.answers["a"].ids) == 18
