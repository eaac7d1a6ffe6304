"""Which format a model follows: known by texts that its chat templates contain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from rbee_worker.answer.kinds import Format, Thinking, Tools
from rbee_worker.answer.reasoning_formats import HARMONY, HARMONY_SIGNS, THINKING
from rbee_worker.answer.tool_formats import TOOLS

_BARE = r"(?<![.\w'\"]){}(?![\w'\"])"  # a variable of the template, not a key or an attribute


def find_format(templates: Iterable[str], is_token: Callable[[str], bool]) -> Format:
    """The format of a model with these chat templates. is_token: whether a text is one token of
    its vocabulary, as marks are that the model writes and its template does not."""
    text = "\n".join(templates)
    if not text:
        return Format()
    channels = HARMONY if _all_in(HARMONY_SIGNS, text) else None
    return Format(
        tools=_tools(text, is_token),
        thinking=None if channels is not None else _thinking(text, is_token),
        channels=channels,
    )


def reads(template: str, name: str) -> bool:
    """Whether a template reads the variable `name`."""
    return re.search(_BARE.format(re.escape(name)), template) is not None


def _tools(text: str, is_token: Callable[[str], bool]) -> Tools | None:
    for row in TOOLS:
        if _all_in(row.signs, text) and not any(sign in text for sign in row.without):
            return row
    if not reads(text, "tools"):
        return None
    for row in TOOLS:  # a template may leave it to the model how calls are written
        marks = [mark for section in row.sections for mark in section.opens]
        if any(is_token(mark) for mark in marks):
            return row
    return None


def _thinking(text: str, is_token: Callable[[str], bool]) -> Thinking | None:
    for row in THINKING:
        if _all_in(row.signs, text):
            return row
    for row in THINKING:
        if all(is_token(sign) for sign in row.signs):
            return row
    return None


def _all_in(signs: tuple[str, ...], text: str) -> bool:
    return all(sign in text for sign in signs)
