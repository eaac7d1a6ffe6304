"""The names under which a request asks for a form of its answer, and what each must look like."""

import json
from typing import Any

import pytest

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import describe, resolve
from rbee_worker.params.constraint import MAX_TEXT
from rbee_worker.types import Constraint, Resolved

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
GBNF, LARK = 'root ::= "a" rest\nrest ::= [0-9]+', 'start: "a" REST\nREST: /[0-9]+/'


def resolved(request: dict[str, Any], surface: Any = "job") -> Resolved:
    return resolve(request, surface=surface, vocab_size=1000, context=512, generation={})


def errors(request: dict[str, Any]) -> list[FieldError]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(request)
    return caught.value.errors


def schema(text: str) -> Constraint:
    return Constraint(kind="json_schema", text=text)


ASKED = [
    ("response_format", {"type": "json_object"}, schema('{"type":"object"}')),
    ("response_format", {"type": "json_object", "schema": SCHEMA}, schema(TEXT)),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": SCHEMA}}, schema(TEXT)),
    (
        "response_format",
        {
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "d", "strict": True, "schema": SCHEMA},
        },
        schema(TEXT),
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "n", "strict": None, "schema": SCHEMA}},
        schema(TEXT),
    ),
    ("response_format", {"type": "json_schema", "schema": SCHEMA}, schema(TEXT)),
    ("structured_outputs", {"json": SCHEMA}, schema(TEXT)),
    ("structured_outputs", {"json": TEXT, "regex": None}, schema(TEXT)),
    ("structured_outputs", {"json_object": True}, schema('{"type":"object"}')),
    ("structured_outputs", {"regex": "a+"}, Constraint(kind="regex", text="a+")),
    ("structured_outputs", {"choice": ["é", "b"]}, Constraint(kind="choice", text='["é","b"]')),
    ("structured_outputs", {"grammar": GBNF}, Constraint(kind="gbnf", text=GBNF)),
    ("json_schema", SCHEMA, schema(TEXT)),
    ("json_schema", True, schema("true")),
    ("guided_json", json.dumps(SCHEMA), schema(TEXT)),
    ("regex", "[ab]", Constraint(kind="regex", text="[ab]")),
    ("guided_regex", "[ab]", Constraint(kind="regex", text="[ab]")),
    ("choice", ["yes", "no"], Constraint(kind="choice", text='["yes","no"]')),
    ("guided_choice", ["yes"], Constraint(kind="choice", text='["yes"]')),
    ("grammar", GBNF, Constraint(kind="gbnf", text=GBNF)),
    ("grammar", LARK, Constraint(kind="lark", text=LARK)),
    ("guided_grammar", LARK, Constraint(kind="lark", text=LARK)),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "want"), ASKED)
@pytest.mark.parametrize("surface", ["job", "generate", "completions", "chat"])
def test_every_name_gives_the_same_constraint_on_every_surface(key, value, want, surface):
    got = resolved({key: value}, surface)
    assert got.params.constraint == want
    assert got.origins["constraint"] == "request"


NOTHING = [
    ("response_format", {"type": "text"}),
    ("structured_outputs", {}),
    ("structured_outputs", {"json": None, "json_object": False}),
    ("grammar", ""),
    ("regex", ""),
    ("choice", []),
    ("json_schema", None),
]


@pytest.mark.parametrize(("key", "value"), NOTHING)
def test_what_means_off_is_off(key, value):
    got = resolved({"seed": 1, key: value})
    assert got == resolved({"seed": 1})
    assert got.params.constraint is None
    assert got.origins["constraint"] == "default"


WRONG = [
    ("response_format", "json", "response_format"),
    ("response_format", {}, "response_format.type"),
    ("response_format", {"type": "xml"}, "response_format.type"),
    ("response_format", {"type": "text", "schema": {}}, "response_format.schema"),
    ("response_format", {"type": "json_object", "scheme": {}}, "response_format.scheme"),
    ("response_format", {"type": "json_object", "schema": 3}, "response_format.schema"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "n"}},
        "response_format.json_schema.schema",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": 3, "schema": {}}},
        "response_format.json_schema.name",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"strict": "yes", "schema": {}}},
        "response_format.json_schema.strict",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"strikt": True, "schema": {}}},
        "response_format.json_schema.strikt",
    ),
    ("structured_outputs", {"structural_tag": "x"}, "structured_outputs.structural_tag"),
    ("structured_outputs", {"regex": "a", "choice": ["a"]}, "structured_outputs"),
    ("structured_outputs", {"json_object": "yes"}, "structured_outputs.json_object"),
    ("structured_outputs", {"whitespace_pattern": " "}, "structured_outputs.whitespace_pattern"),
    ("json_schema", 3, "json_schema"),
    ("json_schema", '{"type": "object", "type": "array"}', "json_schema"),
    ("guided_json", '{"properties": {"a": {"minimum": 1, "minimum": 2}}}', "guided_json"),
    ("json_schema", " " * (1 << 19), "json_schema"),
    ("guided_json", "{", "guided_json"),
    ("guided_json", "[]", "guided_json"),
    ("regex", 3, "regex"),
    ("regex", "a" * (MAX_TEXT + 1), "regex"),
    ("choice", "yes", "choice"),
    ("choice", ["a", 3], "choice"),
    ("choice", ["x"] * 5000, "choice"),
    ("grammar", 3, "grammar"),
    ("grammar", "a ::= b", "grammar"),
    ("grammar", GBNF + "\n" + LARK, "grammar"),
]


@pytest.mark.parametrize(("key", "value", "field"), WRONG)
def test_a_wrong_form_is_refused_by_its_place(key, value, field):
    [error] = errors({key: value})
    assert error.field == field
    assert len(error.message) < 200


def test_two_constraints_are_one_too_many():
    assert resolved({"regex": "a", "grammar": ""}).params.constraint is not None
    [error] = errors({"regex": "a", "response_format": {"type": "json_object"}})
    assert (error.field, error.constraint) == ("response_format", "one constraint")


def test_the_table_describes_them():
    rows = {row["name"]: row for row in describe() if row["role"] == "constraint"}
    assert set(rows) == {key for key, _, _ in ASKED}
    assert all(row["meaning"] for row in rows.values())
