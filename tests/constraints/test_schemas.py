"""JSON Schemas: the official test suite, and a sample of public ones.

A schema that is held admits no invalid value, not one. How many are held, and how many of the
valid values can be written, stands in docs/structured-output.md, and is counted here again.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rbee_worker.constraints.compiled import GrammarFault
from rbee_worker.constraints.schema import check_schema
from rbee_worker.constraints.unheld import Unheld
from tests.constraints.accepting import data, schema

DRAFTS = ("draft4", "draft6", "draft7", "draft2019-09", "draft2020-12")
DOC = Path(__file__).parents[2] / "docs" / "structured-output.md"
SUITE: dict[str, dict[str, list[Any]]] = data("json_schema_suite.json.xz")


def told(name: str) -> list[int]:
    """The numbers of a row of the document's tables."""
    [row] = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", DOC.read_text(), re.MULTILINE)
    return [int(number) for number in re.findall(r"\d+", re.sub(r"\([^)]*\)", "", row))]


def counted(draft: str, groups: list[Any]) -> Counter[str]:
    """What becomes of these groups of the suite. No invalid value may be admitted."""
    seen: Counter[str] = Counter()
    for group in groups:
        seen["groups"] += 1
        try:
            admits = schema(group["schema"])
        except (Unheld, GrammarFault):
            continue
        seen["held"] += 1
        for test in group["tests"]:
            admitted = admits(json.dumps(test["data"], ensure_ascii=False))
            kind = "valid" if test["valid"] else "invalid"
            seen[kind] += 1
            seen[f"{kind} admitted"] += admitted
            assert not (admitted and kind == "invalid"), (draft, group["description"], test)
    return seen


@pytest.mark.parametrize("draft", DRAFTS)
def test_of_the_official_suite_nothing_invalid_is_admitted(draft: str) -> None:
    files = {name: groups for name, groups in SUITE[draft].items() if "/" not in name}
    seen = counted(draft, [group for groups in files.values() for group in groups])
    want = [seen[k] for k in ("groups", "held", "valid", "valid admitted", "invalid")]
    assert told(draft) == [*want, 0]


def test_a_format_that_is_held_admits_nothing_invalid() -> None:
    seen: Counter[str] = Counter()
    for draft in DRAFTS:
        files = {name: groups for name, groups in SUITE[draft].items() if "/format/" in name}
        seen += counted(draft, [group for groups in files.values() for group in groups])
    assert seen["held"] >= 30
    assert seen["invalid"] > 300


def test_public_schemas() -> None:
    """Each is held, or refused with a reason and, if the keyword is known not to be held, its
    place."""
    held, why = 0, Counter[str]()
    sample = data("public_schemas.json.xz")
    for value in sample.values():
        try:
            schema(value)
            held += 1
        except Unheld as unheld:
            why[unheld.pointer.rpartition("/")[2]] += unheld.pointer.startswith("/")
        except GrammarFault as fault:
            why["found by the library"] += bool(str(fault))
    assert told("public sample") == [len(sample), held]
    assert sum(why.values()) == len(sample) - held


PLACES: list[tuple[Any, str]] = [
    ({"properties": {"a/b": {"items": {"not": {}}}}}, "/properties/a~1b/items/not"),
    ({"items": [{}, {"contains": {}}]}, "/items/1/contains"),
    ({"anyOf": [{}, {"minimun": 3}]}, "/anyOf/1/minimun"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"if": {}}}}, "/$defs/x/if"),
    ({"$ref": "#/$defs/y", "$defs": {"x": {}}}, "/$ref"),
    ({"$ref": "http://example.com/other"}, "/$ref"),
    ({"properties": {"a": {"$id": "x"}}}, "/properties/a/$id"),
    ({"properties": {"a": {"nullable": True}}}, "/properties/a/nullable"),
    ({"x-guidance": {"lenient": True}}, "/x-guidance"),
    ({"type": "strin"}, "/type"),
    ({"type": ["string", "nul"]}, "/type"),
    ({"minLength": "3"}, "/minLength"),
    ({"maxItems": -1}, "/maxItems"),
    ({"required": "a"}, "/required"),
    ({"minProperties": 2}, "/minProperties"),
    ({"format": "iri"}, "/format"),
    ({"format": "int32"}, "/format"),
    ({"type": "string", "format": "int32"}, "/format"),
    ({"uniqueItems": True}, "/uniqueItems"),
    ({"uniqueItems": 0}, "/uniqueItems"),
    ({"unevaluatedProperties": False, "allOf": [{}]}, "/unevaluatedProperties"),
    ({"properties": []}, "/properties"),
    ({"additionalProperties": 3}, "/additionalProperties"),
    (3, ""),
]


@pytest.mark.parametrize(("value", "pointer"), PLACES)
def test_what_cannot_be_held_is_named_by_its_place(value: Any, pointer: str) -> None:
    with pytest.raises(Unheld) as caught:
        check_schema(value)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "value",
    [
        {"properties": {"a": {"type": "integer"}}},
        {"properties": {"\u00e9": {"type": "integer"}}, "required": ["\u00e9"]},
        {"properties": {'a"b': {"type": "integer"}}},
        {"properties": {"a\nb": {"type": "integer"}}},
        {"properties": {"\U0001f600": {"type": "integer"}}},
        {"patternProperties": {"^a": {"type": "integer"}}},
        {"allOf": [{"type": "object"}, {"properties": {"a": {"type": "integer"}}}]},
        {"properties": {"b": {"properties": {"a": {"type": "integer"}}, "type": "object"}}},
    ],
)
def test_no_spelling_of_a_declared_name_escapes_its_schema(value: Any) -> None:
    """JSON readers take \\u0061 for an a, so a name has many spellings."""
    admits, valid = schema({"type": "object", **value}), jsonschema.Draft202012Validator(value)
    names = ["a", "\u00e9", 'a"b', "a\nb", "\U0001f600", "ab", "c"]
    for name in names:
        units = name.encode("utf-16-be")
        each = [f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)]
        for spelling in ("".join(each), "".join(each).upper().replace("U", "u"), each[0] + "b"):
            for text in (f'{{"{spelling}":"x"}}', f'{{"b":{{"{spelling}":"x"}}}}'):
                if "\\ud83db" not in text.lower():
                    assert not admits(text) or valid.is_valid(json.loads(text)), text


def test_control_characters_are_written_where_all_names_are_declared() -> None:
    value = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert not schema(value)('{"a":"\\u001b"}')
    assert schema({**value, "additionalProperties": False})('{"a":"\\u001b"}')
    assert schema({"type": "string"})('"\\u001b"')
    with pytest.raises(Unheld) as caught:
        check_schema({"properties": {"a": {"enum": ["b", "\x1b"]}}})
    assert caught.value.pointer == "/properties/a/enum"


@pytest.mark.parametrize("seed", range(2))
def test_numbers_keep_to_their_bounds(seed: int) -> None:
    """Against exact fractions: bounds that exclude, in every notation of a number."""
    rng = random.Random(seed)
    ends = ("0", "1", "-1", "0.5", "1.5", "-0.5", "2", "0.01", "0.001", "1.01", "2.999", "100")
    texts = {"-0", "-0.0", "1e1", "-1e1", "1e-1", "0e1", "1e-15", "0.0000000000000001"}
    for end in ends:
        for off in ("0", "0.01", "-0.01", "1", "-1", "1e-20"):
            text = format(Decimal(end) + Decimal(off), "f")
            texts |= {text, text + ("0" if "." in text else ".0"), text + "e0"}
    names = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
    held = 0
    while held < 40:
        parts = []
        for _ in range(rng.randint(1, 2)):
            part: dict[str, Any] = {"type": rng.choice(["number", "number", "integer"])}
            part |= {n: json.loads(rng.choice(ends)) for n in rng.sample(names, 2)}
            part |= {"multipleOf": rng.choice([0.01, 0.5, 3])} if rng.random() < 0.3 else {}
            parts.append(part)
        try:
            admits = schema({"allOf": parts})
        except (Unheld, GrammarFault):
            continue
        held += 1
        for text in texts:
            assert not admits(text) or all(fits(Decimal(text), p) for p in parts), (parts, text)


def fits(value: Decimal, part: dict[str, Any]) -> bool:
    """Whether a number follows a schema of numbers."""
    exact = {name: Fraction(str(x)) for name, x in part.items() if name != "type"}
    x = Fraction(value)
    return (
        exact.get("minimum", x) <= x <= exact.get("maximum", x)
        and exact.get("exclusiveMinimum", x - 1) < x < exact.get("exclusiveMaximum", x + 1)
        and (x / exact.get("multipleOf", x or 1)).denominator == 1
        and (part["type"] == "number" or x.denominator == 1)
    )


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**64 - 1, 1922790378.2410814, 1e20])
def test_a_number_that_would_be_rounded_is_no_constant(number: float) -> None:
    for value in ({"const": number}, {"enum": [1, {"a": [number]}]}):
        with pytest.raises(Unheld) as caught:
            check_schema({"properties": {"a": value}})
        assert caught.value.pointer == f"/properties/a/{next(iter(value))}"


@pytest.mark.parametrize("number", [2**53 + 1, 2**62 + 1, 1922790378.2410814])
def test_a_bound_that_would_be_rounded_lies_inside(number: float) -> None:
    step = 1 if isinstance(number, int) else 1e-6
    for kind in ("number", "integer"):
        most = schema({"type": kind, "maximum": number})
        least = schema({"type": kind, "minimum": -number})
        for n in range(1, 2000, 13):
            assert not most(repr(number + n * step))
            assert not least(repr(-number - n * step))
        assert most("1")
        assert least("-1")


def test_annotations_and_what_nothing_refers_to_assert_nothing() -> None:
    check_schema({"title": "t", "x-order": 3, "nullable": False, "$defs": {"u": {"not": {}}}})
    check_schema({"const": {"if": 1}, "default": {"not": 2}, "enum": [{"contains": 3}]})
    check_schema({"$ref": "#", "properties": {"a": {"$ref": "#"}}})


@pytest.mark.parametrize(
    ("value", "yes", "no"),
    [
        ({"type": "integer", "format": "int32"}, ["-2147483648", "2147483647"], ["2147483648"]),
        ({"type": "integer", "format": "int64"}, [str(1 - 10**18)], [str(2**63), "1.5"]),
        ({"type": ["integer", "null"], "format": "uint8"}, ["255", "0", "null"], ["-1", "256"]),
        ({"type": "number", "format": "double"}, ["1.5e3"], ['"a"']),
        ({"type": "array", "uniqueItems": False}, ["[1,1]"], ["1"]),
        ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
         ['{"a":1}'], ['{"b":1}']),
        ({"not": False, "type": "null", "propertyNames": True}, ["null"], ["1"]),
    ],
)  # fmt: skip
def test_keywords_in_other_words(value: Any, yes: list[str], no: list[str]) -> None:
    admits = schema(value)
    assert [admits(text) for text in yes] == [True] * len(yes)
    assert [admits(text) for text in no] == [False] * len(no)


def test_a_name_that_comes_twice_counts_once() -> None:
    """Undeclared names may be repeated, so no more of them than one can be promised."""
    admits = schema({"type": "object", "minProperties": 2, "required": ["a", "b"]})
    assert admits('{"a":1,"b":2}')
    assert not admits('{"a":1}')


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ('{"a":1,"b":[1,2]}', True),
        ('{"a": 1, "b": [1, 2]}', True),
        ('{\n  "a": 1,\n  "b": [\n    1\n  ]\n}', True),
        ('{\n\t"a": 1, "b": []}', True),
        ('{  "a": 1, "b": []}', False),
        ('{\n\n"a": 1, "b": []}', False),
        (' {"a": 1, "b": []}', False),
        ('{"a": 1, "b": []}\n', False),
        ('{"b": [], "a": 1}', False),
    ],
)
def test_white_space_has_bounds_and_properties_their_order(text: str, admitted: bool) -> None:
    value = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "array"}},
        "required": ["a", "b"],
    }
    assert schema(value)(text) == admitted
