"""Structured output over HTTP, as the official client asks for it, from a real engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from tests.engine.tiny import write_tiny
from tests.server.reading import events
from tests.server.spawned import Spawned

TALK: list[Any] = [{"role": "user", "content": "Describe it."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
}


class Part(pydantic.BaseModel):
    colour: Literal["red", "green", "blue"]
    sizes: list[bool] = pydantic.Field(max_length=3)


class Thing(pydantic.BaseModel):
    part: Part
    other: Part | None
    count: int = pydantic.Field(ge=0, le=9)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawned]:
    path: Path = write_tiny(tmp_path_factory.mktemp("held") / "tiny", context=512)
    args = ("--local-mode", "--port", "0", "--model-ref", str(path), "--threads", "1")
    with Spawned.daemon(*args, "--speculate", "ngram") as spawned:
        spawned.ready(120)
        yield spawned


@pytest.fixture(scope="module")
def client(worker: Spawned) -> Iterator[openai.OpenAI]:
    url = worker.line["url"] + "/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def name(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def follows(text: str, schema: Any = SCHEMA) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_in_response_format(client: openai.OpenAI, name: str, strict: Any) -> None:
    form: Any = {"name": "thing", "schema": SCHEMA, "strict": strict}
    answer = client.chat.completions.create(
        model=name,
        messages=TALK,
        n=3,
        seed=1,
        response_format={"type": "json_schema", "json_schema": form},
    )
    assert len({choice.message.content for choice in answer.choices}) > 1
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        follows(choice.message.content or "")
        assert choice.model_extra["rbee"]["stop"]["rule"] == "COMPLETE"  # type: ignore[index]


def test_any_object(client: openai.OpenAI, name: str) -> None:
    """This model seldom comes to an end; what it has said is the beginning of an object."""
    answer = client.chat.completions.create(
        model=name, messages=TALK, seed=2, max_tokens=60, response_format={"type": "json_object"}
    )
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        follows(text, {"type": "object"})
    else:
        assert answer.choices[0].finish_reason == "length"


def test_pydantic_models(client: openai.OpenAI, name: str) -> None:
    for seed in range(5):
        answer = client.chat.completions.parse(
            model=name, messages=TALK, seed=seed, response_format=Thing
        )
        assert isinstance(answer.choices[0].message.parsed, Thing)


def test_other_apis_hold_an_answer_too(worker: Spawned, client: openai.OpenAI, name: str) -> None:
    """Responses, Ollama, llama.cpp and Anthropic, each under its own name for it."""
    told = client.responses.parse(
        model=name, input="Describe it.", text_format=Thing, extra_body={"seed": 3}
    )
    assert isinstance(told.output_parsed, Thing)
    talk = {"messages": TALK, "stream": False, "format": SCHEMA, "options": {"seed": 3}}
    follows(worker.http.post("/api/chat", json=talk).json()["message"]["content"])
    asked = {"prompt": "Describe it.", "json_schema": SCHEMA, "seed": 3}
    answer = worker.http.post("/completion", json=asked).json()
    assert answer["stop_type"] == "eos"
    follows(answer["content"])
    config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    said = {"messages": TALK, "max_tokens": 200, "output_config": config, "seed": 3}
    follows(worker.http.post("/v1/messages", json=said).json()["content"][0]["text"])


def test_a_stream_of_it(client: openai.OpenAI, name: str) -> None:
    with client.chat.completions.stream(
        model=name, messages=TALK, seed=4, response_format=Thing
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Thing)


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=name, messages=TALK, seed=4, max_tokens=5, response_format=Thing
        )


NAMES: list[tuple[dict[str, Any], str]] = [
    ({"guided_json": SCHEMA}, "json"),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json"),
    ({"json_schema": SCHEMA}, "json"),
    ({"guided_regex": r"[a-f]{4}-\d\d"}, r"[a-f]{4}-\d\d"),
    ({"structured_outputs": {"regex": r"(?:ab)+c"}}, r"(?:ab)+c"),
    ({"regex": r"x{3,5}y"}, r"x{3,5}y"),
    ({"guided_choice": ["yes", "no"]}, "yes|no"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    ({"choice": ["yes", "no"]}, "yes|no"),
    ({"grammar": 'root ::= "<" [a-c]{2,3} ">"'}, "<[abc]{2,3}>"),
    ({"guided_grammar": 'start: "<" /[a-c]{2,3}/ ">"'}, "<[abc]{2,3}>"),
    ({"structured_outputs": {"grammar": 'root ::= "a" | "b" root "b"'}}, "b*ab*"),
]


@pytest.mark.parametrize(("extra", "wanted"), NAMES)
def test_every_other_name_on_every_route(
    worker: Spawned, client: openai.OpenAI, name: str, extra: dict[str, Any], wanted: str
) -> None:
    chat = client.chat.completions.create(
        model=name, messages=TALK, seed=3, max_tokens=200, extra_body=extra
    )
    plain = client.completions.create(
        model=name, prompt="So", seed=3, max_tokens=200, extra_body=extra
    )
    body = {"prompt": "So", "seed": 3, "max_tokens": 200, **extra}
    infer = worker.http.post("/v1/infer", json=body).json()
    created = worker.http.post("/v1/jobs", json=body).json()
    told = events(worker.http.get(created["sse_url"]).text)
    assert infer["stop_reason"] == "COMPLETE"
    assert told[-2]["stop_reason"] == "COMPLETE"
    job = "".join(event.get("t", "") for event in told[:-1])
    assert job == infer["text"] == plain.choices[0].text
    for text in (chat.choices[0].message.content or "", plain.choices[0].text):
        if wanted == "json":
            follows(text)
        else:
            assert re.fullmatch(wanted, text)


def test_started_and_infer_say_what_the_answer_is_held_to(worker: Spawned) -> None:
    body = {"prompt": "So", "seed": 3, "choice": ["yes"]}
    sampling = worker.http.post("/v1/infer", json=body).json()["sampling"]
    want = {"value": {"kind": "choice", "text": '["yes"]'}, "origin": "request"}
    assert sampling["constraint"] == want
    free = worker.http.post("/v1/infer", json={"prompt": "So", "max_tokens": 1}).json()
    assert free["sampling"]["constraint"] == {"value": None, "origin": "default"}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"json_schema": {"type": "object", "properties": {"a": {"if": {"type": "null"}}}}},
        "json_schema#/properties/a/if",
        "the keyword 'if' cannot be held",
    ),
    (
        {"guided_json": {"type": "array", "uniqueItems": True}},
        "guided_json#/uniqueItems",
        "the keyword 'uniqueItems' cannot be held",
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "schema": {"$defs": {"a/b": {"not": {}}}, "items": {"$ref": "#/$defs/a~1b"}},
                },
            }
        },
        "response_format.json_schema.schema#/$defs/a~1b/not",
        "the keyword 'not' cannot be held",
    ),
    (
        {"json_schema": {"properties": {"a": {"type": "string", "pattern": "a(?=b)"}}}},
        "json_schema#/properties/a/pattern",
        "look-around",
    ),
    (
        {"json_schema": {"anyOf": [{"type": "integer", "minimum": 3, "maximum": 2}]}},
        "json_schema#/anyOf/0",
        "minimum (3) is greater than maximum (2)",
    ),
    ({"regex": "(a"}, "regex", "unclosed group"),
    ({"grammar": 'root ::= "a\n'}, "grammar", "line 1"),
    ({"grammar": "start: a\na: a"}, "grammar", "no text satisfies it"),
    ({"structured_outputs": {"json": {"type": "nul"}}}, "structured_outputs.json#/type", "nul"),
]


@pytest.mark.parametrize(("extra", "field", "why"), REFUSED)
def test_what_cannot_be_held_is_refused_with_its_place(
    worker: Spawned, extra: dict[str, Any], field: str, why: str
) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": TALK}),
        ("/v1/jobs", {"prompt": "So"}),
    ):
        response = worker.http.post(path, json={**body, **extra})
        assert response.status_code == 400
        [error] = response.json()["errors"]
        assert error["field"].startswith(field)
        assert why in error["message"]


HOSTILE: list[dict[str, Any]] = [
    {"regex": "(((a{1,900}){1,900}){1,900}){1,900}b"},
    {"regex": "(" * 5000 + "a" + ")" * 5000},
    {"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000},
    {"grammar": 'root ::= a{9999}\na ::= b{9999}\nb ::= c{9999}\nc ::= "x" | "y"'},
    {"grammar": "start: " + " | ".join(f"a{i}" for i in range(9000))},
    {"json_schema": json.loads('{"items":' * 900 + "{}" + "}" * 900)},
    {"json_schema": {"properties": {f"k{i}": {"type": "string"} for i in range(9000)}}},
    {
        "json_schema": {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}{j}": {"type": "null"}}} for j in range(9)]}
                for i in range(9)
            ]
        }
    },
    {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}},
    {"json_schema": {"pattern": "(a|b|ab)*" * 300, "maxLength": 100_000}},
]


@pytest.mark.parametrize("extra", HOSTILE, ids=lambda extra: next(iter(extra)))
def test_a_hostile_constraint_is_refused_or_held_and_never_hangs(
    worker: Spawned, extra: dict[str, Any]
) -> None:
    body = {"prompt": "So", "max_tokens": 6, "seed": 1, **extra}
    assert worker.http.post("/v1/infer", json=body).status_code in (200, 400)
    plain = {"prompt": "So", "max_tokens": 2}
    assert worker.http.post("/v1/infer", json=plain).status_code == 200


def test_info_lists_the_names(worker: Spawned) -> None:
    rows = {row["name"]: row for row in worker.http.get("/info").json()["parameters"]}
    for extra, _ in NAMES:
        assert rows[next(iter(extra))]["role"] == "constraint"
    assert rows["response_format"]["meaning"]
