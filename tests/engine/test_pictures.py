"""Models with a tower through the real engine, on `reference` and on `cpu`: transformers'
log-probabilities of prompts with pictures, and the same bits in random schedules."""

from __future__ import annotations

import os
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

from rbee_worker.adapters.names import modules_of
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Finished, Submit
from rbee_worker.models import build_model
from rbee_worker.models.base import Decoder
from rbee_worker.ops import Ops
from rbee_worker.ops.adapted import Sites
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
from rbee_worker.pictures.picture import picture
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.pool import StatePool
from rbee_worker.types import SamplingParams
from rbee_worker.verify.compare import relative_error as error
from tests import seeing
from tests.engine.schedules import Run, each_alone, random_schedule

BLOCK, MAX_SEQS, CONTEXT = 16, 6, 512
ROOM = 32  # blocks for the longest request
SLOTS = 3  # tiles whose features are in memory at once
SCHEDULES = 6
BACKENDS = ("reference", "cpu")
IDS = [row.id for row in seeing.ROWS]
PROMPTS: dict[str, list[int | tuple[int, int]]] = {
    "text": [21],
    "first": [(1, 1), 9],
    "last": [6, (1, 2)],
    "tiles": [5, (4, 3), 7],
    "two": [18, (1, 1), 3, (2, 4), 5],
    "other": [18, (1, 5), 3, (2, 4), 5],
    "long": [90, (2, 6), 60, (1, 1), 11],
}


def cases(*quick: tuple[str, str]) -> list[Any]:
    """Every model on every backend; but for the quick ones, with the slow tests."""
    every = [(name, backend) for name in IDS for backend in BACKENDS]
    return [pytest.param(*c, marks=[] if c in quick else pytest.mark.slow) for c in every]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(ops: Ops, name: str) -> Decoder:
    with TemporaryDirectory() as folder:
        return build_model(open_checkpoint(str(seeing.write(name, Path(folder)))), ops)


@cache
def model(name: str, backend: str) -> Any:
    if backend == "reference":
        return ReferenceModel(build(ReferenceOps(), name))
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    ops = CpuOps(library, Team(library, 2), exact=True)
    return CpuModel(build(ops, name), ops, Shape(64, 4, 64, BLOCK, "f32"))


class Spied:
    """A model, and how many tiles it was shown."""

    def __init__(self, model: Any) -> None:
        self.model, self.tiles = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def see(self, tile: Any) -> Any:
        self.tiles += 1
        return self.model.see(tile)


def engine(name: str, backend: str, blocks: int, budget: int, **how: Any) -> Engine:
    made = how.pop("made", None) or model(name, backend)
    tower = made.decoder.tower
    features = FeatureBook(tower.spec, how.pop("slots", SLOTS))
    whole = tower.spec.rows if tower.spec.whole else 0
    pool = StatePool(
        made.groups,
        tokens=blocks * BLOCK,
        block_size=BLOCK,
        max_seqs=MAX_SEQS,
        step_tokens=max(budget, whole),
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
        context=min(CONTEXT, blocks * BLOCK),
        **how,
    )


def prompt(name: str, kind: str) -> seeing.Prompt:
    return seeing.prompt(name, PROMPTS[kind], seed=7)


def request(name: str, kind: str, **changes: Any) -> Submit:
    n = list(PROMPTS).index(kind)
    params = SamplingParams(
        temperature=0.0 if n % 2 else 1.0,
        max_tokens=8 + 3 * (n % 3),
        seed=100 + n,
        logprobs=2,
        repetition_penalty=1.2 if n == 4 else 1.0,
    )
    made = prompt(name, kind)
    values = {"seq": kind, "params": params, "prompt_logprobs": n == 2} | changes
    return Submit(prompt_ids=made.ids, pictures=made.pictures, **values)


def ran(made: Engine, *requests: Submit) -> Run:
    run = Run(made)
    for one in requests:
        run.submit(one)
    run.end()
    return run


@pytest.mark.parametrize(
    ("name", "backend"), cases(("smolvlm", "reference"), ("gemma3-near", "cpu"))
)
def test_log_probabilities_are_those_of_transformers(name: str, backend: str) -> None:
    differ = []
    for kind in PROMPTS:
        params = SamplingParams(temperature=0.0, max_tokens=6, logprobs=1)
        one = request(name, kind, params=params, prompt_logprobs=True)
        answer = ran(engine(name, backend, ROOM, 64), one).answers[kind]
        want = torch.tensor(seeing.logits(name, prompt(name, kind), answer.ids)).log_softmax(-1)
        n, ids = len(one.prompt_ids), [*one.prompt_ids, *answer.ids]
        scores = [score.logprob for score in (*answer.scores[1:], *answer.logprobs)]
        chosen = want[torch.arange(len(ids) - 1), ids[1:]]
        assert error(np.array(scores), chosen.numpy()) < 5e-6  # of the norm
        assert answer.ids == want[n - 1 : len(ids) - 1].argmax(-1).tolist()
        differ.append(tuple(answer.ids))
    assert len(set(differ)) >= len(PROMPTS) - 1  # what is seen decides what is said


@pytest.mark.parametrize("budget", [7, 40, 512])
@pytest.mark.parametrize("name", ["smolvlm", "gemma3-near"])
def test_a_prompt_in_steps_of_any_size_has_the_same_bits(name: str, budget: int) -> None:
    one = request(name, "tiles")
    want = ran(engine(name, "cpu", ROOM, 64), one).answers
    got = ran(engine(name, "cpu", ROOM, budget), one).answers
    assert repr(got) == repr(want)


@pytest.mark.parametrize(
    ("name", "backend"),
    [c for c in cases(("smolvlm", "cpu")) if c.values != ("moondream-1", "reference")],  # as above
)
def test_random_schedules_give_the_same_bits(name: str, backend: str) -> None:
    """Batches with and without pictures, preemption, requests that go on after a restart, cancelled
    ones, prefixes that are reused, drafts."""
    make = partial(engine, name, backend, speculate="ngram")
    some = [request(name, kind) for kind in PROMPTS if kind != "long"]
    want = each_alone(partial(engine, name, backend), some, ROOM)
    longest = max(len(one.prompt_ids) + one.params.max_tokens for one in some)
    least = -(-longest // BLOCK) + 1  # blocks that any of them needs
    seen: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        seen += random_schedule(make, some, want, [least, least + 3, ROOM], seed)
    for what in ("preempted", "shared steps", "resumed", "cached"):
        assert seen[what], what


@pytest.mark.parametrize("name", IDS)
def test_a_reused_prefix_is_not_looked_at_again(name: str) -> None:
    spied: Any = Spied(model(name, "reference"))
    made = engine(name, "reference", ROOM, 512, made=spied, slots=1)
    run = ran(made, request(name, "long"))
    tiles = spied.tiles
    assert tiles == 3
    run.submit(request(name, "long", seq="again"))
    run.end()
    assert run.seen["cached"]
    assert spied.tiles - tiles <= 1  # of a picture that the last block cuts
    assert repr(run.answers["again"]) == repr(run.answers["long"])


def test_equal_pictures_are_looked_at_once_and_others_each() -> None:
    name = "smolvlm"
    spied: Any = Spied(model(name, "reference"))
    many = [request(name, "first", seq=f"a{n}") for n in range(4)]
    ran(engine(name, "reference", ROOM, 512, made=spied), *many)
    assert spied.tiles == 1


def test_other_pixels_behind_equal_ids_share_no_block() -> None:
    name = "smolvlm"
    two, other = request(name, "two"), request(name, "other")
    assert two.prompt_ids == other.prompt_ids
    run = ran(engine(name, "reference", ROOM, 512), two)
    run.submit(structs.replace(other, seq="x"))
    run.end()
    assert run.seen["cached"] == BLOCK  # the text before the first picture
    run.submit(structs.replace(two, seq="y"))
    run.end()
    reusable = (len(two.prompt_ids) - 1) // BLOCK * BLOCK
    assert run.seen["cached"] == BLOCK + reusable
    want = each_alone(partial(engine, name, "reference"), [other], ROOM)
    assert repr(run.answers["x"]) == repr(want["other"])


def test_a_step_computes_one_tile_or_what_the_budget_has_room_for() -> None:
    name = "smolvlm"  # 64 patches and 16 tokens a tile
    for budget, steps in ((16, [1, 1, 1, 1]), (160, [2, 2]), (400, [4])):
        made = engine(name, "reference", ROOM, budget, slots=8)
        made.submit(request(name, "tiles"))
        found = []
        for _ in range(12):
            plan = made.scheduler.schedule()
            found.append(len(plan.looks))
            made.collect(made.launch(plan))
        assert [n for n in found if n] == steps


def test_a_failed_step_leaves_no_features_behind() -> None:
    name = "smolvlm"

    class Broken(Spied):
        def see(self, tile: Any) -> Any:
            self.tiles += 1
            if self.tiles == 2:
                raise RuntimeError("a tile went wrong")
            return self.model.see(tile)

    broken: Any = Broken(model(name, "reference"))
    some = [request(name, "first"), request(name, "two")]
    run = ran(engine(name, "reference", ROOM, 512, made=broken), *some)
    want = each_alone(partial(engine, name, "reference"), some, ROOM)
    assert repr(run.answers) == repr(want)


def test_pictures_that_the_model_cannot_read_are_refused() -> None:
    name = "smolvlm"
    given = request(name, "first")
    (one,) = given.pictures
    small = picture(bytes(16 * 16 * 3), (1, 16, 16), one.places)
    cases = {
        "picture 1 has tiles of 16 x 16 pixels, the model reads 32 x 32": (small,),
        "picture 1 has 16 rows for 15 places": (structs.replace(one, places=((0, 15),)),),
        "picture 1 has not as many pixels as it says": (structs.replace(one, pixels=b"xyz"),),
        "pictures stand in the same place": (one, one),
        "or outside the prompt": (structs.replace(one, places=((15, 16),)),),
    }
    for why, pictures in cases.items():
        made = engine(name, "reference", ROOM, 64)
        made.submit(structs.replace(given, pictures=pictures))
        (finished,) = [out for out in made.step() if isinstance(out, Finished)]
        assert finished.error is not None
        assert why in finished.error
        made.pool.check()


def test_adapters_change_the_text_model_and_leave_the_tower_alone() -> None:
    """So equal pictures have equal features, whatever adapter looks at them."""
    sites = Sites(slots=1, rank=8)
    build(ReferenceOps(sites=sites), "smolvlm")
    names = {part.name for site in sites for part in site.parts}
    theirs = "model.text_model.layers.1.self_attn.q_proj"
    assert "model.layers.1.self_attn.q_proj" in {*modules_of(theirs, "smolvlm", 3)} & names
    assert all(name.startswith("model.layers.") for name in names)
