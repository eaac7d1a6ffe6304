"""Answers in the terminal: wrapped between words, markdown drawn block by block, harmless."""

from __future__ import annotations

import io
import re

import pytest

from rbee_worker.cli.markdown import Rendered, finished
from rbee_worker.cli.wrapping import Wrapped
from rbee_worker.observe.visible import visible

TEXT = (
    "The quick brown fox jumps over the lazy dog.\n\n  Indented, and a-word-longer-than-a-line.\n"
)


def wrapped(text: str, width: int, size: int) -> str:
    made: list[str] = []
    writer = Wrapped(made.append, width)
    for at in range(0, len(text), size):
        writer.feed(text[at : at + size])
    writer.end()
    return "".join(made)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_end_between_words_however_the_text_comes(size: int) -> None:
    assert wrapped(TEXT, 20, size) == (
        "The quick brown fox\njumps over the lazy\ndog.\n\n"
        "  Indented, and\na-word-longer-than-a-line.\n"
    )
    assert wrapped("日本 日本 日本", 9, size) == "日本 日本\n日本"  # two columns each


@pytest.mark.parametrize("size", [1, 7])
def test_nothing_is_changed_where_everything_fits(size: int) -> None:
    assert wrapped(TEXT, 200, size) == TEXT


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One.\n\nTwo", "One."),
        ("One.\nstill one", ""),
        ("One.\n\n", ""),
        ("One.\n\nTwo.\n\nThree", "One."),
        ("- a\n\n  of a\n- b", ""),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```"),
        ("````\n```\n\nb\n````\n\nc", "````\n```\n\nb\n````"),
        ("~~~\n```\n\nb\n~~~\n\nc", "~~~\n```\n\nb\n~~~"),
    ],
)
def test_a_block_is_finished_when_nothing_can_change_it(text: str, whole: str) -> None:
    found, rest = finished(text)
    assert found == whole
    gap = "\n" * (len(text) - len(found) - len(rest))
    assert found + gap + rest == text


def drawn(pieces: list[str]) -> tuple[str, str]:
    """(what is left on a screen, everything that was written) of an answer."""
    out = io.StringIO()
    rendered = Rendered(out)
    for piece in pieces:
        rendered._drawn = 0.0  # every piece is drawn
        rendered.feed(piece)
    rendered.end()
    rows: list[str] = [""]
    at = 0
    for part in re.split(r"(\x1b\[\d*[A-Za-z]|\x1b\[[\d;]*m|\n|\r)", out.getvalue()):
        if part == "\n":
            at += 1
            rows += [""] * (at == len(rows))
        elif part == "\r":
            pass  # what follows clears the row
        elif part.endswith("A") and part.startswith("\x1b["):
            at -= int(part[2:-1])
        elif part == "\x1b[J":
            rows = [*rows[:at], ""]
        elif not part.startswith("\x1b"):
            rows[at] += part
    return "\n".join(row.rstrip() for row in rows), out.getvalue()


def test_a_growing_answer_leaves_the_same_as_a_whole_one() -> None:
    text = (
        "# Bees\n\nA **bold** word, and a line that is long enough to be wrapped once or twice by "
        "any terminal there is, eighty columns wide as it is.\n\n1. one\n2. two\n\n"
        "```python\nx = 1\n\ny = 2\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nEnd.\n"
    )
    whole, _ = drawn([text])
    grown, _ = drawn([text[at : at + 3] for at in range(0, len(text), 3)])
    assert grown == whole
    assert "A bold word" in whole
    assert "x = 1" in whole
    assert whole.rstrip().endswith("End.")


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;owned\x07",
        "&#27;]0;owned&#7;",
        "[x](https://a.example/&#27;]0;owned&#7;)",
        "`&#x1b;[2J` and &#155;2J",
        "```\n\x1b[2J\n```",
        "[bold]x[/bold] [link=https://evil.example]x[/link]",
        "![x](https://evil.example/\x1b[2J)",
    ],
)
def test_no_answer_can_steer_the_terminal(text: str) -> None:
    _, written = drawn([text])
    ours = re.sub(r"\x1b\[[\d;]*[mAJ]|\n|\r", "", written)
    assert visible(ours) == ours
    assert "\x1b]8" not in written, "no link that hides where it leads"


def test_a_block_taller_than_the_screen_is_whole_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("COLUMNS", "40")
    text = "".join(f"- item {n}\n" for n in range(30))
    left, _ = drawn([text[at : at + 5] for at in range(0, len(text), 5)])
    assert re.findall(r"item (\d+)$", left, re.MULTILINE) == [str(n) for n in range(30)]
