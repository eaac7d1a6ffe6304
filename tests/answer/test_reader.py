"""The reader on every format: what an answer consists of, and that it does not depend on how the
text is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from rbee_worker.answer import (
    Format,
    Reader,
    by_name,
    call_ids,
    find_format,
    tool_formats,
    tool_table,
)
from rbee_worker.answer.reasoning_formats import THINKING
from rbee_worker.answer_parts import CallPiece, Part
from tests.answer.samples import JSON, SAMPLES, TOOLS, Sample

NAMES = [f"{s.form}-{n}" for n, s in enumerate(SAMPLES)]
Cut = list[tuple[str, bool]]  # pieces of text, and whether they are hidden


def form_of(sample: Sample) -> Format:
    return find_format([sample.template], lambda text: False)


def read(form: Format, pieces: Iterable[tuple[str, bool]], **options: Any) -> list[Part]:
    """The parts of an answer, neighbours joined."""
    reader = Reader(form, tool_table(TOOLS), call_ids("call", "x"), **options)
    parts: list[Part] = []
    for text, hidden in pieces:
        parts += reader.push(text, hidden=hidden)
    parts += reader.flush()
    assert reader.held == 0
    return joined(parts)


def joined(parts: Sequence[Part]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, CallPiece):
            if isinstance(last, CallPiece) and last.index == part.index:
                assert not part.name
                assert not part.id
                found[-1] = CallPiece(
                    index=last.index,
                    id=last.id,
                    name=last.name,
                    arguments=last.arguments + part.arguments,
                )
            else:
                assert part.name or isinstance(last, tuple)
                found.append(part)
        elif isinstance(last, tuple) and last[0] == part[0]:
            found[-1] = (part[0], last[1] + part[1])
        else:
            found.append(part)
    return found


def told(parts: Sequence[Part]) -> tuple[str, str, list[tuple[str, str]]]:
    """(text, reasoning, calls)"""
    said = {"text": "", "reasoning": ""}
    calls = [(p.name, p.arguments) for p in parts if isinstance(p, CallPiece)]
    for part in parts:
        if isinstance(part, tuple):
            said[part[0]] += part[1]
    return said["text"], said["reasoning"], calls


def veiled(sample: Sample) -> Cut:
    """The answer with its special tokens hidden, each a piece of its own."""
    pieces: Cut = [(sample.answer, False)]
    for mark in sample.special:
        split: Cut = []
        for text, hidden in pieces:
            if hidden:
                split.append((text, hidden))
                continue
            for n, part in enumerate(text.split(mark)):
                split += [(mark, True)] * (n > 0)
                split += [(part, False)] * bool(part)
        pieces = split
    return pieces


def cuts(pieces: Cut, seed: int) -> Cut:
    """The same text in random pieces; hidden ones stay whole, as tokens are."""
    draw = random.Random(seed)
    most = draw.choice([1, 2, 5, 13])
    found: Cut = []
    for text, hidden in pieces:
        if hidden:
            found.append((text, hidden))
            continue
        at = 0
        while at < len(text):
            size = draw.randint(1, most)
            found.append((text[at : at + size], False))
            at += size
    return found


@pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)
def test_an_answer_is_taken_apart(sample: Sample) -> None:
    form = form_of(sample)
    assert form.tools is not None
    assert form.tools.name == sample.form
    for pieces in ([(sample.answer, False)], veiled(sample)):
        text, reasoning, calls = told(read(form, pieces))
        assert (text, reasoning) == (sample.text, sample.reasoning)
        assert [(name, json.loads(arguments)) for name, arguments in calls] == list(sample.calls)


@pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)
def test_however_the_text_is_cut_the_parts_are_the_same(sample: Sample) -> None:
    form = form_of(sample)
    for pieces in ([(sample.answer, False)], veiled(sample)):
        want = read(form, pieces)
        for seed in range(40):
            assert read(form, cuts(pieces, seed)) == want


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)
def test_wherever_the_text_is_cut_in_two_the_parts_are_the_same(sample: Sample) -> None:
    form = form_of(sample)
    want = read(form, [(sample.answer, False)])
    for at in range(1, len(sample.answer)):
        assert read(form, [(sample.answer[:at], False), (sample.answer[at:], False)]) == want


ODD = {
    "city": 'a\u2028"}]</tool_call>[/]``` \\ 🌦\x7f',
    "days": -1.5e3,
    "more": {"": [[], {}, [{"b": [None, True]}]], "é": {"name": "now", "arguments": {}}},
}


@pytest.mark.parametrize("sample", [s for s in SAMPLES if JSON in s.answer], ids=lambda s: s.form)
def test_arguments_may_be_any_json(sample: Sample) -> None:
    """Escaped or not, in one line or in many, with marks and braces in strings."""
    if sample.form in ("deepseek-v3", "command-r"):
        odd: dict[str, Any] = ODD | {"city": "a }]</tool_call> 🌦"}  # "```" ends their block
    else:
        odd = ODD
    form, calls = form_of(sample), [odd if value else value for _, value in sample.calls]
    for text in (
        json.dumps(odd),
        json.dumps(odd, ensure_ascii=False),
        json.dumps(odd, indent=2),
        json.dumps(odd, separators=(",", ":")),
    ):
        pieces = [(sample.answer.replace(JSON, text), False)]
        whole = read(form, pieces)
        assert [json.loads(arguments) for _, arguments in told(whole)[2]] == calls
        for seed in range(4):
            assert read(form, cuts(pieces, seed)) == whole


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.calls], ids=lambda s: s.form)
def test_a_call_within_reasoning_is_reasoning(sample: Sample) -> None:
    form = Format(tools=by_name(sample.form), thinking=THINKING[-3])
    if form_of(sample).thinking is not None or form_of(sample).channels is not None:
        return  # its answer has reasoning of its own
    assert form.thinking is not None
    thought = f"Perhaps {sample.answer}?"
    answer = f"<think>{thought}</think>{sample.answer}"
    text, reasoning, calls = told(read(form, [(answer, False)]))
    assert reasoning == thought
    assert len(calls) == len(sample.calls)
    assert text == sample.text


@pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES if JSON in s.answer.partition("get_weather")[2]],
    ids=lambda s: s.form,
)
def test_a_broken_call_has_what_was_written_as_its_arguments(sample: Sample) -> None:
    """A piece is missing behind its name: what is left of its arguments is told, and is not taken
    for a call without any."""
    form, draw = form_of(sample), random.Random(11)
    start = sample.answer.rindex("get_weather") + len("get_weather")
    if sample.form == "harmony":
        start = sample.answer.index(JSON)  # a header that is broken is none
    end = sample.answer.index("days")
    for _ in range(30):
        at = draw.randrange(start, end)
        gone = draw.randint(1, 12)
        pieces = [(sample.answer[:at] + sample.answer[at + gone :], False)]
        parts = read(form, pieces)
        text, reasoning, calls = told(parts)
        kept = text + reasoning + "".join(name + arguments for name, arguments in calls)
        for word in ("Köln", "🌦"):
            assert (word in kept) == (word in pieces[0][0]), pieces[0][0]
        assert read(form, cuts(pieces, at)) == parts


@pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)
def test_an_answer_that_ends_anywhere_loses_nothing(sample: Sample) -> None:
    """Cut at every character: what was given out before stays as it is; what was held back is text,
    and arguments are a prefix of the whole."""
    form = form_of(sample)
    *_, whole = told(read(form, [(sample.answer, False)]))
    reader = Reader(form, tool_table(TOOLS), call_ids("call", "x"))
    early: list[Part] = []
    for at, char in enumerate(sample.answer):
        early += reader.push(char)
        parts = read(form, [(sample.answer[: at + 1], False)])
        before, after = told(joined(early)), told(parts)
        for given, found in zip(before[:2], after[:2], strict=True):
            assert found.startswith(given)
        for given, found in zip(before[2], after[2], strict=True):
            assert found[0] == given[0]
            assert found[1].startswith(given[1])
        for (name, arguments), (_, complete) in zip(after[2], whole, strict=False):
            assert name in ("get_weather", "now")
            assert complete.startswith(arguments)


def test_every_format_has_a_sample() -> None:
    assert {s.form for s in SAMPLES} == set(tool_formats())


def test_random_texts_of_marks_are_read_the_same_however_they_are_cut() -> None:
    """Marks, names and braces in any order: no text makes the reader fail, or depend on cuts."""
    draw = random.Random(7)
    for sample in SAMPLES:
        form = form_of(sample)
        assert form.tools is not None
        sections = form.tools.sections
        marks = [m for s in sections for m in (*s.opens, *s.closes)]
        words = [*marks, "get_weather", "now", JSON, "{", "}", '"', "[", "]", "(", ")", "\n", " "]
        words += ["city", ":", ",", "=", "call:", "<", ">", "é", "🌦", "\\", "</", "</think>"]
        words += ["<think>", '{"name": "now", "arguments": ', "<|message|>", "<|channel|>final"]
        for _ in range(60):
            text = "".join(draw.choice(words) for _ in range(draw.randint(1, 14)))
            want = read(form, [(text, False)])
            for seed in range(4):
                assert read(form, cuts([(text, False)], seed)) == want, text


@pytest.mark.parametrize("name", sorted(tool_formats()))
def test_plain_text_is_given_out_as_it_is(name: str) -> None:
    if name == "harmony":
        return  # its answers always have headers
    form = Format(tools=by_name(name))
    for text in ("Hi.", "  a < b && c\n\n", "f(x) = {x}\n", "", "é🌦 <b>", "\n"):
        assert told(read(form, [(text, False)])) == (text, "", [])


def test_text_comes_without_delay() -> None:
    """Only what could become a mark, and blanks at the end, are held back."""
    form = form_of(SAMPLES[0])
    reader = Reader(form, tool_table(TOOLS), call_ids("call", "x"))
    assert reader.push("It is") == [("text", "It is")]
    assert reader.push(" ") == []
    assert reader.held == 1
    assert reader.push("<b>") == [("text", " <b>")]
    assert reader.push(" <tool") == []
    assert reader.held == 6
    assert reader.push("s>") == [("text", " <tools>")]


def test_arguments_come_in_pieces() -> None:
    reader = Reader(form_of(SAMPLES[0]), tool_table(TOOLS), call_ids("call", "x"))
    assert reader.push('<tool_call>\n{"name": "get_wea') == []
    (head,) = reader.push('ther"')
    assert isinstance(head, CallPiece)
    assert (head.index, head.name, head.arguments) == (0, "get_weather", "")
    assert reader.push(', "arguments": {"ci') == [CallPiece(index=0, arguments='{"ci')]
    assert reader.push('ty": "Kö') == [CallPiece(index=0, arguments='ty": "Kö')]


@pytest.mark.parametrize(
    ("form", "prompt", "place"),
    [
        (0, "<think>\n", "start"),
        (1, "<|im_start|>assistant\n<think>\n", "reasoning"),
        (1, "<|im_start|>assistant\n<think>\n\n</think>\n\n", "text"),
        (1, "<|im_start|>assistant\n", "start"),
        (25, "<|start|>user<|message|>x<|end|><|start|>assistant", "start"),
        (25, "<|start|>assistant<|channel|>analysis<|message|>H", "reasoning"),
        (25, "<|start|>assistant<|channel|>final<|message|>It", "text"),
    ],
)
def test_where_an_answer_begins(form: int, prompt: str, place: str) -> None:
    assert form_of(SAMPLES[form]).place(prompt) == place


def test_an_answer_may_begin_within_its_reasoning() -> None:
    form = form_of(SAMPLES[1])
    parts = read(form, [("Hm.\n</think>\n\nHi.", False)], place="reasoning")
    assert parts == [("reasoning", "Hm."), ("text", "Hi.")]
    harmony = form_of(SAMPLES[25])
    parts = read(
        harmony, [("Hm.<|end|><|start|>assistant<|channel|>final", False)], place="reasoning"
    )
    assert parts[0] == ("reasoning", "Hm.")
    assert read(harmony, [(" is.<|return|>", False)], place="text") == [("text", " is.")]


def test_blanks_beside_marks_are_dropped() -> None:
    form = form_of(SAMPLES[1])
    assert read(form, [("<think></think>\n\n Hi.\n", False)]) == [("text", "Hi.\n")]
    assert read(form, [("\n\n Hi.\n", False)], place="reasoning") == [("reasoning", "Hi.")]
    granite = find_format(["<think></think><response></response>"], lambda text: False)
    answer = "<think> Hm. </think>\n<response>\n Hi.\n</response>"
    assert read(granite, [(answer, False)]) == [("reasoning", "Hm."), ("text", "Hi.")]


def test_two_texts_of_harmony_are_told_apart() -> None:
    answer = (
        "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>analysis"
        "<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    )
    assert read(form_of(SAMPLES[25]), [(answer, False)]) == [
        ("text", "Let me see."),
        ("reasoning", "Hm."),
        ("text", "\n\nYes."),
    ]


def test_more_calls_than_wanted_end_it() -> None:
    sample = SAMPLES[0]
    reader = Reader(form_of(sample), tool_table(TOOLS), call_ids("call", "x"), most=1)
    parts = reader.push(sample.answer) + reader.flush()
    assert reader.full
    _, _, calls = told(joined(parts))
    assert [name for name, _ in calls] == ["get_weather"]


def test_ids_are_those_that_templates_accept() -> None:
    assert call_ids("call", "a")(0, "f") == call_ids("call", "a")(0, "f")
    assert call_ids("call", "a")(0, "f") != call_ids("call", "b")(0, "f")
    short = call_ids("short", "a")(1, "f")
    assert len(short) == 9
    assert short.isalnum()
    assert call_ids("counted", "a")(1, "f") == "functions.f:1"
