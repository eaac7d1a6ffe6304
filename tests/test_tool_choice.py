"""Calls that must be made, strict tools, and forms of answers after reasoning: held by the engine
itself, around a tiny model with random weights, which writes whatever it is allowed to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import rbee_worker
from rbee_worker.answer.tool_formats import TOOLS
from rbee_worker.errors import InvalidRequest
from rbee_worker.library import Answer, Model
from tests.server.talking import write
from tests.tokenizer.tool_templates import QWEN3

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Köln", "Bonn", "a/b"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
HELD = {row.name: row for row in TOOLS if row.writes is not None}
ASK = "How is it?"
Load = Callable[..., Model]


def function(name: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


WEATHER = function("get_weather", SCHEMA)
NOW = function("now", EMPTY)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    made: list[Model] = []

    def start(template: str, specials: tuple[str, ...] = (), **options: Any) -> Model:
        folder = write(tmp_path / str(len(made)), template, specials, rows=True)
        options = {"backend": "cpu", "ctx": 2048, **options}
        made.append(rbee_worker.load(str(folder), **options))
        return made[-1]

    yield start
    for model in made:
        model.close()


def specials_of(name: str) -> tuple[str, ...]:
    """Marks of a format that look like special tokens."""
    row = HELD[name]
    assert row.writes is not None
    marks = [m for s in row.sections for m in (*s.opens, *s.closes)]
    marks += ["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "[ARGS]", "<|channel|>", "<|message|>"]
    marks += ["<|start|>", "<|end|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>"]
    return tuple(dict.fromkeys(m for m in marks if m[0] in "<[" and m[-1] in ">]"))


def checked(answer: Answer) -> list[tuple[str, Any]]:
    """The calls; their arguments follow the schemas."""
    found = []
    for call in answer.tool_calls:
        arguments = json.loads(call.arguments)
        jsonschema.validate(arguments, {"get_weather": SCHEMA, "now": EMPTY}[call.name])
        found.append((call.name, arguments))
    return found


@pytest.mark.parametrize("hidden", [False, True], ids=["texts", "tokens"])
@pytest.mark.parametrize("name", HELD)
def test_a_call_that_must_be_made_follows_its_schema(load: Load, name: str, hidden: bool) -> None:
    """In every format, whether its marks are plain text or special tokens."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    if name == "harmony":
        template += "<|start|>assistant"
    if name == "harmony" and not hidden:
        return  # its marks are always tokens
    options = {"tool_format": name}
    if name == "harmony":
        template, options = template + "{# <|channel|><|message|> #}", {}
    model = load(template, specials_of(name) if hidden else (), **options)
    for seed in range(2):
        params: dict[str, Any] = {"seed": seed, "max_tokens": 400, "tools": [WEATHER, NOW]}
        answer = model.chat(ASK, tool_choice="required", parallel_tool_calls=False, **params)
        assert len(checked(answer)) == 1
        assert answer.text == ""
        chosen = {"type": "function", "function": {"name": "get_weather"}}
        answer = model.chat(ASK, tool_choice=chosen, **params)
        assert [called for called, _ in checked(answer)] == ["get_weather"]
        assert answer.text == ""


def test_several_calls_may_be_required(load: Load) -> None:
    model = load(QWEN3)
    counts = set()
    for seed in range(4):
        answer = model.chat(
            ASK, tools=[NOW], tool_choice="required", seed=seed, max_tokens=300, temperature=2
        )
        calls = checked(answer) if answer.stop.rule != "MAX_TOKENS" else []
        assert answer.reasoning == "" or answer.tool_calls or answer.stop.rule == "MAX_TOKENS"
        counts.add(len(calls))
    assert counts - {0}


def test_an_answer_has_its_form_after_the_reasoning(load: Load) -> None:
    """The form holds for the text, not for the reasoning before it."""
    opened = QWEN3 + "{{- '<think>\\n' }}"
    model = load(opened)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for seed in range(4):
        answer = model.chat(
            ASK, seed=seed, thinking_budget=20, max_tokens=300, response_format=form
        )
        assert answer.reasoning
        jsonschema.validate(json.loads(answer.text), SCHEMA)
        answer = model.chat(ASK, seed=seed, thinking_budget=5, max_tokens=300, choice=["yes", "no"])
        assert answer.text in ("yes", "no")
    closed = load(QWEN3).chat(ASK, seed=1, enable_thinking=False, max_tokens=300, choice=["a", "b"])
    assert closed.text in ("a", "b")


def test_strict_tools_are_held_wherever_they_are_called(load: Load) -> None:
    """Free text with calls in it. The bias makes the model begin them often."""
    strict = [function("get_weather", SCHEMA, strict=True), function("now", EMPTY, strict=True)]
    model = load(QWEN3, ("<tool_call>", "</tool_call>"))
    mark = model.tokenizer.token_id("<tool_call>")
    calls = 0
    for seed in range(6):
        answer = model.chat(
            ASK, tools=strict, seed=seed, max_tokens=400, logit_bias={str(mark): 8}, temperature=1.5
        )
        whole = answer.tool_calls if answer.stop.rule != "MAX_TOKENS" else answer.tool_calls[:-1]
        for call in whole:
            jsonschema.validate(
                json.loads(call.arguments), {"get_weather": SCHEMA, "now": EMPTY}[call.name]
            )
        calls += len(whole)
    assert calls > 3


def test_either_a_call_or_an_answer_of_a_form(load: Load) -> None:
    model = load(QWEN3)
    for seed in range(6):
        answer = model.chat(
            ASK, tools=[WEATHER], seed=seed, max_tokens=400, choice=["yes", "no"], temperature=2
        )
        if answer.stop.rule == "MAX_TOKENS":
            continue
        assert bool(answer.tool_calls) != (answer.text in ("yes", "no"))


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"tool_choice": "required", "choice": ["a"]}, "choice"),
        ({"grammar": 'start: "x"'}, "grammar"),
        (
            {"tools": [function("f", {"type": "object", "not": {}})], "tool_choice": "required"},
            "tools[0].function.parameters#/not",
        ),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(
    load: Load, params: dict[str, Any], field: str
) -> None:
    model = load(QWEN3)
    with pytest.raises(InvalidRequest) as caught:
        model.chat(ASK, **{"tools": [WEATHER], **params})
    assert [e.field for e in caught.value.errors] == [field]


@pytest.mark.parametrize("name", ["lfm2", "llama-pythonic", "gemma4", "deepseek-v3.2"])
def test_formats_that_cannot_be_held_say_so(load: Load, name: str) -> None:
    model = load("{{ messages }}{{ tools }}", tool_format=name)
    for params in ({"tool_choice": "required"}, {"tools": [function("f", {}, strict=True)]}):
        with pytest.raises(InvalidRequest, match=name):
            model.chat(ASK, **{"tools": [WEATHER], **params})
