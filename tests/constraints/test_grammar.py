"""Regular expressions, choices and Lark as constraints."""

from __future__ import annotations

import json
import re

import pytest

from rbee_worker.constraints.compiled import GrammarFault
from rbee_worker.constraints.regex import portable
from rbee_worker.constraints.unheld import Unheld
from tests.constraints.accepting import Accepting

ARABIC = "\u0661\u0662"  # digits that are no ASCII ones


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"\d{2}-[\w-]+", ["12-a-b", "00-_"], ["1-a", f"{ARABIC}-a", "12-\u00e9"]),
        (r"[^\d]+", ["ab-"], ["1", ARABIC]),
        (r"\D\W\S", ["a-a"], [f"{ARABIC[0]}-a", "aaa", "a- "]),
        (r"[\d\s]+", ["1 2\n"], ["a"]),
        (r"[]a]+", ["]a"], ["b"]),
        (r"[^]a]+", ["b["], ["]"]),
        (r"[a[b]+", ["a[b"], ["]"]),
        (r"^(?:ab|c)$", ["ab", "c"], ["abc", ""]),
        (r"(?i)abc", ["aBC"], ["ab"]),
        (r"a/b\/c", ["a/b/c"], ["ab"]),
        (r"(?P<x>a)+?b", ["aab"], ["b"]),
        ("a\nb", ["a\nb"], ["a b"]),
        (r"\x41\u0042", ["AB"], ["A"]),
        (r".+", ["\u00e9 x"], ["a\nb"]),
    ],
)
def test_a_regular_expression_is_for_the_whole_answer(
    pattern: str, yes: list[str], no: list[str]
) -> None:
    admits = Accepting("regex", pattern)
    assert [admits(text) for text in yes] == [True] * len(yes)
    assert [admits(text) for text in no] == [False] * len(no)
    assert all(re.fullmatch(pattern, text) for text in yes), "python would refuse the answer"


@pytest.mark.parametrize("pattern", ["(a", r"(a)\1", "a(?=b)", "[z-a]", r"a\b", "a{3,1}", "*"])
def test_one_that_cannot_be_held_is_refused(pattern: str) -> None:
    with pytest.raises(GrammarFault) as caught:
        Accepting("regex", pattern)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["\\", "a\\", "a\\\\\\"])
def test_one_that_ends_within_an_escape_is_refused(pattern: str) -> None:
    with pytest.raises(re.error):
        re.compile(pattern)
    with pytest.raises(Unheld):
        Accepting("regex", pattern)


def test_classes_are_written_out_once() -> None:
    assert portable(r"\\d\d[\\d\d]") == r"\\d[0-9][\\d0-9]"


CHOICES = ["yes", "y", 'a "quoted" one', "line\nfeed", "\u20ac/\\", "{}", ""]


def test_a_choice_is_one_of_its_texts() -> None:
    admits = Accepting("choice", json.dumps(CHOICES))
    assert [admits(text) for text in CHOICES] == [True] * len(CHOICES)
    assert not any(admits(text) for text in ("ye", "yesy", "line", "\n", '"y"'))


LARK = """
start: "call " NAME "(" args ")"   // a comment
NAME: /[a-z]+/
args: %json {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
             "additionalProperties": false}
"""


def test_lark_with_a_schema_inside() -> None:
    admits = Accepting("lark", LARK)
    assert admits('call f({"n": 1})')
    assert admits('call f({\n  "n": 1\n})')
    assert not admits('call f({"n": "1"})')
    assert not admits('call f({  "n": 1})')


@pytest.mark.parametrize(
    ("text", "why", "pointer"),
    [
        ('start: %json {"items": {"not": {}}}', "'not'", "/items/not"),
        ('start: x\nx[temperature=0.5]: "a"', "temperature", ""),
        ('start: x\nx[capture]: "a"', "capture", ""),
    ],
)
def test_what_would_be_dropped_in_lark_is_refused(text: str, why: str, pointer: str) -> None:
    with pytest.raises(Unheld) as caught:
        Accepting("lark", text)
    assert why in caught.value.message
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("text", ["start: missing", 'strat: "a"', "start: a\na: a", 'start: "a'])
def test_what_the_library_refuses_has_a_reason(text: str) -> None:
    with pytest.raises(GrammarFault) as caught:
        Accepting("lark", text)
    assert str(caught.value)
