"""Speculation changes when tokens come, and nothing else that a request is told.

Random requests with every parameter, on tiny models, each alone and in batches that preempt: ids,
text, log-probabilities, stop records and usage are those without speculation, bit for bit; and
what is drafted and accepted is the same alone and in a batch.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rbee_worker
from rbee_worker.engine.lookup import Drafter
from rbee_worker.library import Model
from rbee_worker.types import End, Narration, PromptLogprobs, Request, Started, Token
from tests import tiny

WINDOW = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 19}
BACKENDS = ("cpu", "reference")
SOME = {"cpu": 50, "reference": 20}  # requests; the slow and the long tests have a thousand of each
SPECULATE = ("off", "ngram")
PENALTIES = {"repetition_penalty", "presence_penalty", "frequency_penalty"}
KINDS: dict[str, dict[str, Any]] = {"whole": {}, "windowed": WINDOW}
IDS = range(32, 127)  # printable
CONTEXT = 128
ROOMY = {"ctx": CONTEXT, "kv_tokens": 4096, "max_seqs": 8, "token_budget": 64}
TIGHT = {"ctx": CONTEXT, "kv_tokens": 128, "max_seqs": 8, "token_budget": 24}  # one long sequence


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("speculation")
    return {kind: tiny.write_safetensors(folder / kind, **config) for kind, config in KINDS.items()}


@dataclass
class Told:
    """All that a request was told, but times. usage: prompt, output and cached tokens."""

    prompt: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: str = ""
    scores: str = ""
    stop: str = ""
    usage: tuple[int, int, int] = (0, 0, 0)
    drafts: tuple[int, int] = (0, 0)
    preempted: int = 0
    steps: int = 0

    def same(self, cached: bool = True) -> tuple[Any, ...]:
        """What speculation must not change. cached: how much of the prompt was found again too."""
        told = self.ids, self.text, self.logprobs, self.scores, self.stop, self.usage[:2]
        return (*told, self.usage[2]) if cached else told


def asked(seed: int) -> Request:
    """A random request. Prompts repeat themselves, and so do answers that have few tokens to choose
    from."""
    dice = random.Random(seed)
    base = dice.choices(IDS, k=dice.choice([2, 5, 12, 30]))
    prompt = (base * dice.choice([1, 2, 4]))[: dice.choice([9, 25, 50])]
    if dice.random() < 0.5:
        shared = random.Random(seed % 3).choices(IDS, k=48)
        prompt = [*shared[: dice.choice([16, 33, 48])], *prompt]
    params: dict[str, Any] = {"seed": seed, "max_tokens": dice.choice([1, 2, 9, 20, 40, 60])}
    if dice.random() < 0.1 or params["max_tokens"] + len(prompt) > CONTEXT:
        params["max_tokens"] = CONTEXT - len(prompt)  # to the end of the context
    params["temperature"] = dice.choice([0, 0, 0.7, 1.0, 1.5])
    few = dice.sample(IDS, k=dice.choice([1, 2, 4]))
    if dice.random() < 0.8:
        params["logit_bias"] = {str(token): 9.0 for token in few}
    if dice.random() < 0.3:
        params |= dice.choice([{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 2}])
    if dice.random() < 0.4:
        penalties = [
            {"repetition_penalty": 1.2, "repeat_last_n": dice.choice([-1, 5, 20])},
            {"presence_penalty": 0.7},
            {"frequency_penalty": 0.3},
            {"repetition_penalty": 0.9, "presence_penalty": -0.5, "frequency_penalty": -0.1},
        ]
        params |= dice.choice(penalties)
    if dice.random() < 0.4:
        params["logprobs"] = dice.choice([0, 1, 3])
        params["echo"] = dice.random() < 0.4
    if dice.random() < 0.3:
        params["stop_token_ids"] = [*few[:1], *dice.sample(IDS, k=2)]
    if dice.random() < 0.3:
        letters = [chr(token) for token in few]
        params["stop"] = ["".join(dice.choices(letters, k=dice.choice([2, 3, 4])))]
    if dice.random() < 0.3:
        params["min_tokens"] = dice.randint(1, params["max_tokens"])
    if dice.random() < 0.3:
        params["ignore_eos"] = True
    return Request(id="", token_ids=tuple(prompt), params=params, choice=dice.choice([0, 0, 1, 2]))


def run(model: Model, requests: Sequence[Request]) -> list[Told]:
    """All of them together."""
    streams = [model.events(request) for request in requests]
    return [_told(stream) for stream in streams]


def _told(events: Iterator[Any]) -> Told:
    told, ids, text, logprobs, scores = Told(), [], [], [], []
    for event in events:
        if isinstance(event, Started):
            told.prompt = event.prompt_ids
        elif isinstance(event, Token | End):
            ids += event.ids
            text.append(event.t if isinstance(event, Token) else event.text)
            logprobs += event.logprobs or ()
        elif isinstance(event, PromptLogprobs):
            scores += event.logprobs
        elif isinstance(event, Narration):
            told.preempted += event.action == "preempted"
        if isinstance(event, End):
            usage = event.usage
            told.ids, told.text, told.logprobs = tuple(ids), "".join(text), repr(logprobs)
            told.scores = repr(scores)
            told.stop = repr(event.stop)
            told.usage = usage.prompt_tokens, usage.output_tokens, usage.cached_tokens
            told.drafts = usage.drafted_tokens, usage.accepted_tokens
            return told
    raise AssertionError("it did not end")


def load(path: Path, backend: str, speculate: str, **options: Any) -> Model:
    return rbee_worker.load(
        str(path),
        backend=backend,
        threads=1,
        speculate=speculate,
        generation_config=False,
        **options,
    )


def counted(told: Told, request: Request) -> tuple[int, int]:
    """Drafted and accepted, from the request and its tokens alone."""
    limit = min(len(told.prompt) + request.params["max_tokens"], CONTEXT)
    drafter = Drafter([*told.prompt, *told.ids], len(told.prompt), limit)
    drafter.follow(len(told.prompt) + len(told.ids))
    return drafter.drafted, drafter.accepted


def alone(
    path: Path, backend: str, speculate: str, requests: Sequence[Request], **types: str
) -> list[Told]:
    """One after another, in one engine. The last one's `steps` are all that it took."""
    with load(path, backend, speculate, **ROOMY, **types) as model:
        assert model.info.speculate == speculate
        told = [run(model, [request])[0] for request in requests]
        told[-1].steps = model._running().stats().steps
    return told


def compare(path: Path, backend: str, seeds: range, **types: str) -> Counter[str]:
    """Each of these requests with and without speculation, alone and in batches; what happened.
    types: what activations and the cache are kept in."""
    seen: Counter[str] = Counter()
    requests = [asked(seed) for seed in seeds]
    off, on = (alone(path, backend, speculate, requests, **types) for speculate in SPECULATE)
    for seed, request, one, other in zip(seeds, requests, off, on, strict=True):
        assert other.same() == one.same(), seed
        assert one.drafts == (0, 0)
        assert other.drafts == counted(other, request), seed
        seen["tokens"] += len(one.ids)
        seen["drafted"] += other.drafts[0]
        seen["accepted"] += other.drafts[1]
        if PENALTIES & request.params.keys():
            seen["accepted beside penalties"] += other.drafts[1]
        seen[one.stop.split("'")[1]] += 1
    seen["steps saved"] = off[-1].steps - on[-1].steps
    for options in (ROOMY, TIGHT):
        with load(path, backend, "ngram", **options, **types) as model:
            dice, left = random.Random(seeds.start), list(range(len(requests)))
            dice.shuffle(left)
            while left:
                size = dice.randint(2, 8)
                part, left = left[:size], left[size:]
                for n, got in zip(part, run(model, [requests[n] for n in part]), strict=True):
                    assert got.same(cached=False) == off[n].same(cached=False), (seeds[n], options)
                    assert got.drafts == on[n].drafts, (seeds[n], options)
                    seen["preempted"] += got.preempted
                    seen["in a batch"] += 1
    least = {  # for each request; otherwise too little of what this is about has happened
        "tokens": 8,
        "drafted": 4,
        "accepted": 1.5,
        "accepted beside penalties": 0.1,
        "steps saved": 1,
        "preempted": 0.03,
        "in a batch": 2,
        "MAX_TOKENS": 0.2,
        "STOP_SEQUENCE": 0.1,
    }
    for name, n in least.items():
        assert seen[name] >= n * len(seeds), seen
    return seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_told_the_same(paths: dict[str, Path], backend: str, kind: str) -> None:
    n = SOME[backend]
    seeds = {"whole": range(50 - n, 50), "windowed": range(50, 50 + n)}[kind]
    compare(paths[kind], backend, seeds)


@pytest.mark.parametrize(
    ("backend", "types"),
    [
        ("cpu", {"kv_dtype": "i8"}),
        pytest.param("reference", {"dtype": "bf16"}, marks=pytest.mark.slow),
    ],
    ids=["cpu, 8-bit cache", "reference, bf16"],
)
def test_in_fewer_bits_too(paths: dict[str, Path], backend: str, types: dict[str, str]) -> None:
    compare(paths["whole"], backend, range(50 - SOME[backend], 50), **types)


@pytest.mark.parametrize(
    ("backend", "count"),
    [
        pytest.param("cpu", 500, marks=pytest.mark.slow),
        pytest.param("reference", 100, marks=pytest.mark.slow),
        pytest.param("reference", 500, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_requests_are_told_the_same(
    paths: dict[str, Path], backend: str, count: int, kind: str
) -> None:
    """Of both kinds together."""
    start = 1000 + 500 * list(KINDS).index(kind)
    seen = compare(paths[kind], backend, range(start, start + count))
    assert seen["EOS"] or count < 500  # one in some hundreds
    assert seen["CONTEXT_FULL"] == 0  # max_tokens is checked against the context


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_repeats_comes_in_few_steps(paths: dict[str, Path], backend: str) -> None:
    """An answer of one token, again and again: drafts are as long as they get, and accepted."""
    params = {"max_tokens": 97, "temperature": 0, "logit_bias": {"65": 100}, "ignore_eos": True}
    request = Request(id="", token_ids=(40, 41, 42), params=params)
    off, on = (alone(paths["whole"], backend, speculate, [request])[0] for speculate in SPECULATE)
    assert on.ids == off.ids == (65,) * 97
    assert off.steps == 97
    drafted, accepted = on.drafts
    assert accepted == drafted > 80
    assert on.steps == 97 - accepted


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_request_may_do_without(paths: dict[str, Path], backend: str) -> None:
    with load(paths["whole"], backend, "ngram", **ROOMY) as model:
        bias = {"65": 9, "66": 9, "67": 9}
        params = {"max_tokens": 60, "seed": 5, "logit_bias": bias, "ignore_eos": True}
        told = []
        for given in ({}, {"speculation": True}, {"speculation": False}):
            request = Request(id="", token_ids=(40, 41, 42), params=params | given)
            told.append(run(model, [request])[0])
        assert len({one.ids for one in told}) == 1
        assert told[0].drafts == told[1].drafts
        assert told[0].drafts[0] > 20
        assert told[2].drafts == (0, 0)
        stats = model._running().stats()
        assert stats.drafted_tokens == 2 * told[0].drafts[0]
        assert stats.accepted_tokens == 2 * told[0].drafts[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_rejected_tokens_are_never_found_in_the_cache(
    paths: dict[str, Path], backend: str, kind: str
) -> None:
    """A conversation: each prompt is the one before, its answer and something new. What is found
    again is what there is without drafts, and gives what an engine that knows nothing gives."""
    bias = {"65": 9, "66": 9}
    params = {"max_tokens": 21, "logit_bias": bias, "ignore_eos": True, "logprobs": 2}
    found: dict[str, list[Told]] = {}
    for speculate in SPECULATE:
        with load(paths[kind], backend, speculate, ctx=256, kv_tokens=4096) as model:
            prompt: tuple[int, ...] = (70, 71, 72)
            for turn in range(8):
                request = Request(id="", token_ids=prompt, params=params | {"seed": turn})
                [told] = run(model, [request])
                found.setdefault(speculate, []).append(told)
                prompt = (*prompt, *told.ids, 80 + turn)
    for on, off in zip(found["ngram"], found["off"], strict=True):
        assert on.same() == off.same()
    assert found["ngram"][-1].usage[2] >= 128  # of some 150 tokens
    assert sum(told.drafts[0] - told.drafts[1] for told in found["ngram"]) > 20  # were rejected
    for turn, told in enumerate(found["ngram"]):
        with load(paths[kind], backend, "off", ctx=256, kv_tokens=4096) as model:
            request = Request(id="", token_ids=told.prompt, params=params | {"seed": turn})
            assert run(model, [request])[0].same(cached=False) == told.same(cached=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_how_many_there_are(
    paths: dict[str, Path], backend: str, kind: str
) -> None:
    """What speculation relies on: bit for bit, however many rows a step has."""
    ids = random.Random(4).choices(IDS, k=50)
    with load(paths[kind], backend, "off", token_budget=64) as model:
        whole = model.logits(ids)
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17):
        with load(paths[kind], backend, "off", token_budget=rows) as model:
            assert np.array_equal(model.logits(ids), whole), rows


def test_without_a_cache_nothing_is_drafted_and_a_note_says_so(paths: dict[str, Path]) -> None:
    with load(paths["whole"], "cpu", "ngram", kv_cache=False) as model:
        assert model.info.speculate == "off"
        [note] = [note for note in model.info.notes if "drafts nothing" in note]
        assert "--no-kv-cache" in note
        params = {"max_tokens": 9, "temperature": 0, "logit_bias": {"65": 100}}
        told = run(model, [Request(id="", token_ids=(65,) * 9, params=params)])[0]
        assert told.drafts == (0, 0)
    with load(paths["whole"], "cpu", "off", kv_cache=False) as model:
        assert not [note for note in model.info.notes if "drafts" in note]
