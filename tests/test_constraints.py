"""Answers that are held to a constraint: complete ones follow it, and nothing else changes them.

Random requests with every parameter, on a tiny model, each alone and in batches that preempt, with
and without speculation: ids, text, log-probabilities and stop records are the same.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from rbee_worker.engine.sequence import Sequence
from rbee_worker.errors import InvalidRequest
from rbee_worker.library import Model
from rbee_worker.types import Constraint, Request
from tests import tiny
from tests.test_speculation import BACKENDS, ROOMY, TIGHT, Told, asked, load, run

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "n": {"type": "integer", "minimum": -5, "maximum": 250},
        "on": {"enum": ["yes", "no", None, 3]},
        "list": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
    },
    "required": ["n", "on"],
    "additionalProperties": False,
}
SHORT = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 9}
CHOICES = ["ab", "abc", "abcabcabcabcabc", "a longer one", "é€😀"]
GBNF = r"""
root ::= pair ("," pair)*  # as many as it likes
pair ::= [a-c]+ "=" ("[" root? "]" | [0-9]{1,3})
"""
LARK = 'start: "(" start ")" | X+\nX: /[xyz]/'
HELD: list[tuple[dict[str, Any], Any]] = [  # a constraint, and whether a text follows it
    ({"json_schema": SCHEMA}, lambda text: valid(text, SCHEMA)),
    ({"response_format": {"type": "json_object", "schema": SHORT}}, lambda t: valid(t, SHORT)),
    ({"regex": r"(?:ab|[c-e]\d)+!"}, lambda text: re.fullmatch(r"(?:ab|[c-e]\d)+!", text)),
    ({"regex": r"\w{3,30}"}, lambda text: re.fullmatch(r"\w{3,30}", text)),
    ({"choice": CHOICES}, lambda text: text in CHOICES),
    ({"grammar": GBNF}, lambda text: nested(text)),
    ({"grammar": LARK}, lambda text: re.fullmatch(r"\(*[xyz]+\)*", text)),
]  # fmt: skip


def valid(text: str, schema: Any) -> bool:
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    return True


def nested(text: str) -> bool:
    """By taking out the innermost brackets again and again."""
    pairs = r"[a-c]+=(?:\d{1,3})(?:,[a-c]+=\d{1,3})*"
    for _ in range(len(text)):
        text = re.sub(rf"\[(?:{pairs})?\]", "1", text)
    return re.fullmatch(pairs, text) is not None


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("constraints") / "tiny")


@pytest.fixture(scope="module", params=BACKENDS)
def model(path: Path, request: pytest.FixtureRequest) -> Iterator[Model]:
    with load(path, request.param, "off", **ROOMY) as loaded:
        yield loaded


def held(seed: int) -> tuple[Request, Any]:
    """A random request with a constraint; most of its other parameters stay as they are."""
    constraint, follows = HELD[seed % len(HELD)]
    request = asked(seed)
    return replace(request, params=request.params | constraint), follows


def check(request: Request, told: Told, follows: Any, seen: Counter[str]) -> None:
    """A complete answer follows its constraint; one that is not says why."""
    rule = re.findall(r"rule='(\w+)'", told.stop)[0]
    seen[rule] += 1
    if rule in ("COMPLETE", "EOS"):
        assert follows(told.text), (told.text, request)
    else:
        assert rule in ("MAX_TOKENS", "STOP_SEQUENCE")


@pytest.mark.parametrize("backend", BACKENDS)
def test_held_answers_are_the_same_however_they_are_computed(path: Path, backend: str) -> None:
    rounds = {"cpu": 12, "reference": 6}[backend]
    seeds, seen = range(len(HELD) * rounds), Counter[str]()
    requests, follows = zip(*(held(seed) for seed in seeds), strict=True)
    told: dict[str, list[Told]] = {}
    for speculate in ("off", "ngram"):
        with load(path, backend, speculate, **ROOMY) as model:
            told[speculate] = [run(model, [request])[0] for request in requests]
    for seed, one, other in zip(seeds, told["off"], told["ngram"], strict=True):
        assert other.same() == one.same(), seed
        check(requests[seed], one, follows[seed], seen)
        seen["accepted"] += other.drafts[1]
    for options in (ROOMY, TIGHT):
        with load(path, backend, "ngram", **options) as model:
            dice, left = random.Random(1), list(seeds)
            dice.shuffle(left)
            while left:
                part, left = left[:5], left[5:]
                for n, got in zip(part, run(model, [requests[n] for n in part]), strict=True):
                    assert got.same(cached=False) == told["off"][n].same(cached=False), (n, options)
                    seen["preempted"] += got.preempted
    least = {"COMPLETE": 10, "EOS": 1, "MAX_TOKENS": 5, "accepted": 20, "preempted": 2}
    assert all(seen[name] >= n * rounds / 12 for name, n in least.items()), seen


@pytest.mark.parametrize("backend", ["cpu", pytest.param("reference", marks=pytest.mark.slow)])
def test_a_token_without_a_choice_is_taken_without_a_step(
    path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens are those that would be drawn."""
    requests = [held(seed)[0] for seed in range(42)]
    told: list[list[Told]] = []
    steps: list[int] = []
    for speculate in ("off", "ngram"):
        for forcing in (True, False):
            with monkeypatch.context() as patch, load(path, backend, speculate, **ROOMY) as model:
                if not forcing:
                    patch.setattr(Sequence, "forced", lambda self: [])
                told.append([run(model, [request])[0] for request in requests])
                steps.append(model._running().stats().steps)
    for others in told[1:]:
        assert [one.same() for one in others] == [one.same() for one in told[0]]
    assert [one.drafts for one in told[2]] == [one.drafts for one in told[3]]
    assert steps[0] < steps[1] - 15, steps
    assert steps[2] < steps[3] - 10, steps


def test_a_forced_answer_takes_one_step(model: Model) -> None:
    engine = model._running()
    before = engine.stats().steps
    got = answer(model, regex="[ab]cdefghijk")
    assert len(got.token_ids) == 10
    assert engine.stats().steps - before == 1
    assert answer(model, regex="[ab]cdefghijk", logprobs=0).token_ids == got.token_ids
    assert engine.stats().steps - before == 11
    cut = answer(model, regex="[ab]cdefghijk", max_tokens=4)
    assert (cut.token_ids, cut.stop.rule) == (got.token_ids[:4], "MAX_TOKENS")


def test_without_a_constraint_nothing_changes(model: Model) -> None:
    """Whether or not another answer in the batch is held."""
    plain = [asked(seed) for seed in range(6)]
    before = run(model, plain)
    among = run(model, [*plain[:3], held(5)[0], *plain[3:], held(6)[0]])
    after = [*among[:3], *among[4:7]]
    assert [told.same(cached=False) for told in after] == [t.same(cached=False) for t in before]


def answer(model: Model, **params: Any) -> Any:
    return model.generate([40, 41, 42], **{"seed": 1, "max_tokens": 40} | params)


def test_a_draw_is_the_likeliest_of_the_tokens_that_are_allowed(model: Model) -> None:
    """Greedy, from the model's own logits."""
    got = answer(model, regex="[b-d]{5}x?", temperature=0)
    ids = [40, 41, 42]
    for token in got.token_ids[:5]:
        logits = model.logits(ids)[-1]
        assert token == 98 + int(np.argmax(logits[98:101]))  # "b", "c", "d"
        ids.append(token)
    assert re.fullmatch("[b-d]{5}x?", got.text)


def test_log_probabilities_are_of_the_raw_logits(model: Model) -> None:
    got = answer(model, regex="[b-d]{4}", logprobs=2)
    ids = [40, 41, 42]
    for token, entry in zip(got.token_ids, got.logprobs, strict=True):
        logits = model.logits(ids)[-1].astype(np.float64)
        scores = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert entry.id == token
        assert entry.logprob == pytest.approx(scores[token], abs=1e-5)
        assert entry.top[0][0] == int(np.argmax(logits))
        ids.append(token)


def test_where_nothing_can_follow_the_answer_is_complete(model: Model) -> None:
    got = answer(model, choice=["abc"])
    assert (got.text, got.stop.rule, got.stop.origin, got.stop.at) == (
        "abc",
        "COMPLETE",
        "request",
        3,
    )
    assert got.usage.output_tokens == 3
    just = answer(model, choice=["abc"], max_tokens=3)
    assert just.stop.rule == "COMPLETE"
    cut = answer(model, choice=["abc"], max_tokens=2)
    assert (cut.text, cut.stop.rule) == ("ab", "MAX_TOKENS")


def test_an_end_token_is_drawn_only_where_the_answer_may_end(model: Model) -> None:
    """Here the end is the likeliest by far, as soon as it is allowed."""
    eos = model._rules.eos[0].id
    bias = {str(eos): 100}
    got = answer(model, regex="(?:abc)+d*", logit_bias=bias)
    assert (got.text, got.stop.rule, got.token_ids[-1]) == ("abc", "EOS", eos)
    later = answer(model, regex="(?:abc)+d*", logit_bias=bias, min_tokens=5)
    assert later.stop.rule == "EOS"
    assert len(later.token_ids) - 1 >= 5
    assert re.fullmatch("(?:abc)+d*", later.text)
    never = answer(model, regex="(?:abc)+d*", logit_bias=bias, ignore_eos=True)
    assert never.stop.rule == "MAX_TOKENS"
    assert eos not in never.token_ids


def test_min_tokens_does_not_outlive_the_grammar(model: Model) -> None:
    got = answer(model, choice=["abc"], min_tokens=20)
    assert (got.text, got.stop.rule) == ("abc", "COMPLETE")


def test_stop_strings_and_ids_still_end_an_answer(model: Model) -> None:
    got = answer(model, regex="(?:ab)+", stop=["aba"])
    assert (got.text, got.stop.rule, got.stop.sequence) == ("", "STOP_SEQUENCE", "aba")
    got = answer(model, regex="(?:ab)+", stop_token_ids=[98])
    assert (got.stop.rule, got.stop.token_id) == ("STOP_SEQUENCE", 98)
    special = sorted(model.tokenizer.special_ids - {token.id for token in model._rules.eos})[0]
    got = answer(model, regex="ab[a-z]*", stop_token_ids=[special], logit_bias={str(special): 100})
    assert (got.text, got.stop.token_id) == ("ab", special)


def test_bias_and_penalties_choose_among_what_is_allowed(model: Model) -> None:
    biased = {"98": 50, "100": 40}
    assert answer(model, regex="[abc]{6}", logit_bias=biased, temperature=0).text == "b" * 6
    got = answer(model, regex="[bd]{6}", logit_bias=biased, temperature=0, frequency_penalty=2.0)
    assert set(got.text) == {"b"}
    got = answer(
        model, regex="[abc]{12}", temperature=0, presence_penalty=2.0, repetition_penalty=2.0
    )
    assert set(got.text) == set("abc")


def test_several_choices_of_one_prompt_are_held_alike(model: Model) -> None:
    params = {"seed": 3, "max_tokens": 30, "json_schema": SHORT}
    requests = [Request(id="", token_ids=(40, 41), params=params, choice=c) for c in range(6)]
    together = run(model, requests)
    assert len({told.ids for told in together}) > 1
    assert [t.same(False) for t in together] == [run(model, [r])[0].same(False) for r in requests]
    for told in together:
        assert "COMPLETE" not in told.stop or valid(told.text, SHORT)


def test_a_route_may_hold_an_answer_itself(model: Model) -> None:
    own = Constraint(kind="choice", text='["abc"]')
    request = Request(id="", token_ids=(40, 41), params={"seed": 1}, constraint=own)
    assert run(model, [request])[0].text == "abc"
    both = replace(request, params={"seed": 1, "regex": "x"})
    with pytest.raises(InvalidRequest, match="regex: cannot be held together"):
        run(model, [both])


def test_an_empty_answer_may_be_all_that_is_allowed(model: Model) -> None:
    got = answer(model, choice=[""])
    assert (got.text, got.stop.rule) == ("", "EOS")
