"""MetaVoice's first stage through the real engine, on `reference` and on `cpu`: the logits of a
float64 reference, guided by a voice, and the same bits in random schedules."""

from __future__ import annotations

import os
import random
from collections import Counter
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

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
from rbee_worker.ops.guidance import guided
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.pool import StatePool
from rbee_worker.types import SamplingParams
from rbee_worker.verify.compare import relative_error as error
from tests import speaking
from tests.engine.schedules import Run, each_alone, random_schedule

BLOCK, MAX_SEQS = 16, 6
ROOM = 20  # blocks for the longest request
SCHEDULES = 6
BACKENDS = ("reference", "cpu")
NAMES = tuple(speaking.SHAPES)
REQUESTS = 6
CASES = [(name, backend) for name in NAMES for backend in BACKENDS]


def build(ops: Ops, name: str) -> Decoder:
    with TemporaryDirectory() as folder:
        return build_model(open_checkpoint(str(speaking.write(Path(folder), name))), ops)


@cache
def model(name: str, backend: str) -> Any:
    if backend == "reference":
        return ReferenceModel(build(ReferenceOps(), name))
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    ops = CpuOps(library, Team(library, 2), exact=True)
    return CpuModel(build(ops, name), ops, Shape(64, 4, 64, BLOCK, "f32"))


def engine(name: str, backend: str, blocks: int, budget: int, **how: Any) -> Engine:
    made = model(name, backend)
    assert made.decoder.tiles is not None
    features = FeatureBook(made.decoder.tiles, MAX_SEQS)
    pool = StatePool(
        made.groups,
        tokens=blocks * BLOCK,
        block_size=BLOCK,
        max_seqs=MAX_SEQS,
        step_tokens=budget,
        features=features,
    )
    state = CpuState if backend == "cpu" else TorchState
    return make_engine(
        made,
        state(
            made.groups,
            pool.n_blocks,
            pool.n_slots,
            block_size=BLOCK,
            dtype="f32",
            features=features,
        ),
        made.decoder.ops.sampling(made.vocab_size),
        pool,
        token_budget=budget,
        max_seqs=MAX_SEQS,
        context=min(made.context, blocks * BLOCK),
        speaks=True,
        **how,
    )


def request(name: str, n: int, **changes: Any) -> Submit:
    """Request number n. Some have the same text in other voices, one has none."""
    rng = random.Random(n % 3)
    text = rng.choices(range(speaking.TEXT, speaking.END_OF_TEXT), k=(40, 7, 9)[n % 3])
    params = SamplingParams(
        temperature=0.0 if n % 2 else 1.0,
        top_p=0.95,
        max_tokens=8 + 3 * (n % 3),
        seed=n,
        logprobs=2,
    )
    voice = b"" if n == 5 else speaking.voice(name, n).tobytes()
    values: dict[str, Any] = {"seq": f"r{n}", "params": params, "voice": voice}
    values["guidance"] = (3.0, 1.0, 2.5, 3.0, 1.0, 3.0)[n]
    return Submit(prompt_ids=(*text, speaking.END_OF_TEXT), **(values | changes))


def ran(made: Engine, *requests: Submit) -> Run:
    run = Run(made)
    for one in requests:
        run.submit(one)
    run.end()
    return run


@pytest.mark.parametrize(
    ("name", "backend"),
    [pytest.param(*case, marks=pytest.mark.slow) if case[0] != "plain" else case for case in CASES],
)
def test_tokens_and_scores_are_those_of_the_reference(name: str, backend: str) -> None:
    answers = []
    for n in (0, 1, 2, 5):
        params = SamplingParams(temperature=0.0, max_tokens=6, logprobs=0)
        one = request(name, n, params=params)
        answer = ran(engine(name, backend, ROOM, 64), one).answers[one.seq]
        speaker = np.frombuffer(one.voice, np.float32) if one.voice else None
        ids = list(one.prompt_ids)
        for token, score in zip(answer.ids, answer.logprobs, strict=True):
            own = speaking.logits(name, ids, speaker)[-1]
            other = speaking.logits(name, ids, None)[-1]
            want = one.guidance * own + (1 - one.guidance) * other
            likely = want - want.max() - np.log(np.exp(want - want.max()).sum())
            assert token == want.argmax()
            assert abs(score.logprob - likely[token]) < 1e-4 * np.abs(want).max()
            ids.append(token)
        answers.append(tuple(answer.ids))
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_logits_of_both_lanes_are_those_of_the_reference(name: str, backend: str) -> None:
    """Each lane, in chunks that a small budget makes of the prompt."""
    one, seen = request(name, 0), []
    made = engine(name, backend, ROOM, 24)
    runner: Any = made.runner
    own = model(name, backend)

    class Spied:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(own, attribute)

        def guided(self, batch: Any, scales: Any) -> Any:
            seen.append(own.host(own.logits(batch)).copy())
            return own.guided(batch, scales)

    runner._model = Spied()
    ran(made, one)
    speaker = np.frombuffer(one.voice, np.float32)
    for lane, given in enumerate((speaker, None)):
        want = speaking.logits(name, one.prompt_ids, given)[-1]
        assert error(seen[0][lane], want) < 1e-5


@pytest.mark.parametrize(
    "budget", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 512))]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prompt_in_steps_of_any_size_has_the_same_bits(backend: str, budget: int) -> None:
    one = request("plain", 0)
    want = ran(engine("plain", backend, ROOM, 64), one).answers
    assert repr(ran(engine("plain", backend, ROOM, budget), one).answers) == repr(want)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [("plain", "cpu"), ("grouped", "reference")])
def test_random_schedules_give_the_same_bits(name: str, backend: str) -> None:
    """Batches of several voices, preemption, requests that go on after a restart, cancelled ones,
    prefixes that are reused. Drafts are asked for, and there are none."""
    make = partial(engine, name, backend, speculate="ngram")
    some = [request(name, n) for n in range(REQUESTS)]
    want = each_alone(partial(engine, name, backend), some, ROOM)
    longest = max(len(one.prompt_ids) + one.params.max_tokens for one in some)
    least = -(-longest // BLOCK) + 1
    seen: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        seen += random_schedule(make, some, want, [least, least + 3, ROOM], seed)
    for what in ("preempted", "shared steps", "resumed", "cached"):
        assert seen[what], what
    assert make(ROOM, 64).speculate == "off"


def test_voices_share_no_prefix_and_equal_ones_do() -> None:
    one = request("plain", 0)
    run = ran(engine("plain", "reference", ROOM, 64), one)
    for seq, voice, cached in (
        ("x", speaking.voice("plain", 9).tobytes(), 0),
        ("y", one.voice, 32),
    ):
        before = run.seen["cached"]
        run.submit(request("plain", 0, seq=seq, voice=voice))
        run.end()
        assert run.seen["cached"] - before == cached
    assert run.answers["y"] == run.answers["r0"]


def test_lanes_count_as_tokens_of_a_step() -> None:
    made = engine("plain", "reference", ROOM, 16)
    assert made.scheduler.token_budget == 8
    spec: Any = made.pool.groups[0].spec
    assert spec.bytes_per_token("f32") == 2 * 2 * 4 * 16 * 4  # lanes, keys and values, heads


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 2.7])
def test_guidance_is_float32_product_by_product(scale: float) -> None:
    rng = np.random.default_rng(3)
    both = rng.normal(size=(4, 7)).astype(np.float32)
    want = np.float32(scale) * both[:2] + np.float32(1 - scale) * both[2:]
    assert np.array_equal(guided(both.copy(), [scale] * 2), want)
