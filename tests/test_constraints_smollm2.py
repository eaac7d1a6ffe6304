"""Thousands of answers of a real model at temperature 1, held to schemas of all kinds: none that is
complete is invalid.

`RBEE_TEST_GENERATIONS` chooses another number of answers. The model is SmolLM2, which is too small
to know what a schema asks for: what it says is as wild as the schema allows. Each part is a test of
its own, so that a run that was stopped can go on with the next: `-k "part7"`.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from jsonschema.validators import validator_for

import rbee_worker
from rbee_worker.constraints.compiled import GrammarFault
from rbee_worker.constraints.unheld import Unheld
from rbee_worker.library import Model
from rbee_worker.types import Constraint, End, Request
from tests.constraints.accepting import data, schema

MODEL = os.environ.get("RBEE_TEST_MODEL", "smollm2")
GENERATIONS = int(os.environ.get("RBEE_TEST_GENERATIONS", "2000"))
PART = 96  # answers of one test
TOGETHER = 32
OWN: list[Any] = [
    {"type": "integer", "minimum": -20, "exclusiveMaximum": 1000},
    {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 8},
    {"type": "string", "minLength": 3, "maxLength": 12, "pattern": "^[A-Z].*[0-9]$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv6"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "email"},
    {"type": "string", "format": "hostname"},
    {"enum": [1, "one", None, [1], {"a": 1}]},
    {"type": "array", "items": {"type": ["string", "null"], "maxLength": 9}, "maxItems": 5},
    {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"const": "x"}],
        "items": {"type": "boolean"},
        "minItems": 3,
        "maxItems": 6,
    },
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "size": {"anyOf": [{"type": "integer", "maximum": 9}, {"enum": ["S", "M", "L"]}]},
            "more": {"$ref": "#/$defs/pair"},
        },
        "required": ["name", "more"],
        "additionalProperties": False,
        "$defs": {
            "pair": {
                "type": "object",
                "properties": {"a": {"type": "boolean"}, "next": {"$ref": "#/$defs/pair"}},
                "required": ["a"],
                "additionalProperties": False,
            }
        },
    },
    {
        "type": "object",
        "patternProperties": {"^[a-z]{1,8}$": {"type": "integer", "minimum": 0}},
        "additionalProperties": False,
        "maxProperties": 4,
    },
    {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
                "required": ["kind", "r"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"kind": {"const": "point"}},
                "required": ["kind"],
                "additionalProperties": False,
            },
        ]
    },
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 5}, "b": {"maxLength": 4}}},
        ],
    },
]


def held() -> list[Any]:
    """Our own schemas, and those of the public sample that can be held."""
    found = list(OWN)
    for value in data("public_schemas.json.xz").values():
        try:
            schema(value)
        except (Unheld, GrammarFault):
            continue
        found.append(value)
    return found


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with rbee_worker.load(MODEL, backend="cpu", ctx=1024, max_seqs=TOGETHER) as loaded:
        yield loaded


def asked(number: int, value: Any) -> Request:
    title = value.get("title") or value.get("description") or "something"
    wish = f"Write {str(title)[:80]} as JSON. Be brief."
    return Request(
        id=str(number),
        messages=({"role": "user", "content": wish},),
        params={"seed": number, "max_tokens": 160, "temperature": 1.0},
        constraint=Constraint(kind="json_schema", text=json.dumps(value)),
    )


def answers(model: Model, requests: list[Request]) -> list[tuple[str, str]]:
    """Each one's text, and the rule that ended it."""
    streams = [model.events(request) for request in requests]
    found = []
    for stream in streams:
        text = ""
        for event in stream:
            text += getattr(event, "t", "")
            if isinstance(event, End):
                found.append((text + event.text, event.stop.rule))
    return found


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, GENERATIONS, PART), ids=lambda n: f"part{n // PART}")
def test_no_complete_answer_is_invalid(model: Model, first: int) -> None:
    schemas = held()
    assert len(schemas) > 60
    dice, seen = random.Random(1), Counter[str]()
    # our own schemas as often as the public ones, which seldom come to an end in so few tokens
    order = [dice.choice(OWN if n % 2 else schemas) for n in range(GENERATIONS)]
    last = min(first + PART, GENERATIONS)
    for start in range(first, last, TOGETHER):
        part = order[start : min(start + TOGETHER, last)]
        requests = [asked(start + n, value) for n, value in enumerate(part)]
        for value, (text, rule) in zip(part, answers(model, requests), strict=True):
            seen[rule] += 1
            if rule in ("COMPLETE", "EOS"):
                kind = validator_for(value, default=jsonschema.Draft202012Validator)
                checker = kind(value, format_checker=kind.FORMAT_CHECKER)
                checker.validate(json.loads(text))
            else:
                assert rule == "MAX_TOKENS", (rule, text)
    assert sum(seen.values()) == last - first
    assert seen["COMPLETE"] + seen["EOS"] > (last - first) // 2, seen
    print(dict(seen))  # noqa: T201 - for whoever runs it
