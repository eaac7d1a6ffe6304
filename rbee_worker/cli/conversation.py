"""A conversation as data, and the slash commands that change it. No terminal, no engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from rbee_worker.errors import UsageError
from rbee_worker.server.schemas import ImagePart, TextPart

HELP = """\
/set NAME VALUE   change a sampling parameter; /set NAME alone resets it; /set lists all of them
/attach FILE      show the model a picture with the next question
/system [TEXT]    set the system message; without TEXT show it; /system - removes it
/reset            forget the conversation (system message and parameters stay)
/retry            answer the last question again
/stats            speed and token counts of this conversation
/copy             copy the last answer
/save [FILE]      write the conversation as JSON
/load FILE        go on with a conversation that /save wrote
/help             this list
/quit             leave (as Ctrl-D does)

Enter sends; Alt-Enter (or a \\ at the end of a line) starts a new line.
Ctrl-C stops an answer, or clears the line; arrow keys recall earlier lines."""

COMMANDS = [line.split()[0] for line in HELP.splitlines() if line.startswith("/")]
Parse = Callable[[str, str | list[str]], Any]  # (parameter, text) -> value; raises UsageError
MOST_BYTES = 64 << 20  # of a saved conversation


class _Turn(msgspec.Struct):
    """content: a text, or parts with pictures, as the API takes them."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart | ImagePart]


class _Saved(msgspec.Struct):
    """What `/save` writes. Other keys are not read."""

    messages: list[_Turn]
    params: dict[str, Any] = {}


@dataclass
class Conversation:
    """The turns so far, the system message, and the parameters that the user set.

    check: parses a parameter's value from text, and refuses values that no request to this model
    may have. defaults: the value and origin of every parameter that is not set.
    """

    check: Parse
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    system: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    attached: list[dict[str, Any]] = field(default_factory=list)  # pictures of the next question

    def messages(self) -> tuple[dict[str, Any], ...]:
        """The messages of a request: the system message, then the turns."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return tuple(head + self.turns)

    def attach(self, part: dict[str, Any], name: str) -> str:
        """`/attach FILE`: the picture is shown with the next question."""
        self.attached.append(part)
        return f"{name} goes with the next question ({len(self.attached)} so far)."

    def ask(self, text: str) -> None:
        """Add the user's turn, with the pictures that are attached."""
        content: Any = text
        if self.attached:
            content = [*self.attached, {"type": "text", "text": text}]
            self.attached = []
        self.turns.append({"role": "user", "content": content})

    def answer(self, text: str) -> None:
        """Add the model's turn. An empty answer removes the question, so that roles alternate; its
        pictures stay attached."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self._take()

    def retry(self) -> str:
        """Remove the last question and its answer; returns the question's text. Its pictures are
        attached again."""
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        if not self.turns:
            raise UsageError("there is nothing to answer again.", fix="ask something first.")
        return self._take()

    def _take(self) -> str:
        """Remove the last question; returns its text, and attaches its pictures."""
        content = self.turns.pop()["content"]
        if isinstance(content, str):
            return content
        self.attached = [part for part in content if part["type"] == "image_url"]
        return "\n".join(part["text"] for part in content if part["type"] == "text")

    def set(self, rest: str) -> str:
        """`/set NAME VALUE`, `/set NAME`, `/set`; returns the text to show."""
        name, _, text = rest.strip().partition(" ")
        name, text = name.replace("-", "_"), text.strip()
        if not name:
            return self._listed()
        if not text:
            if name not in self.defaults and name not in self.params:
                self.check(name, "default")  # refuses a mistyped name
            self.params.pop(name, None)
            return f"{name} has its default."
        self.params[name] = self.check(name, text)
        return f"{name} = {_shown(self.params[name])}"

    def _listed(self) -> str:
        """Every parameter, one a line, with its value and who says so."""
        rows = {name: (given["value"], given["origin"]) for name, given in self.defaults.items()}
        rows |= {name: (value, "set") for name, value in self.params.items()}
        wide = max(map(len, rows), default=0)
        return "\n".join(
            f"{name:<{wide}} = {_shown(value)}  ({origin})"
            for name, (value, origin) in rows.items()
        )

    def set_system(self, rest: str) -> str:
        """`/system TEXT`, `/system -`, `/system`."""
        text = rest.strip()
        if not text:
            return "No system message." if self.system is None else self.system
        self.system = None if text == "-" else text
        return "System message removed." if text == "-" else "System message set."

    def reset(self) -> str:
        """Remove all turns."""
        self.turns.clear()
        self.attached.clear()
        return "Conversation forgotten."

    def last_answer(self) -> str:
        """The text of the model's last turn. Raises UsageError if there is none."""
        for turn in reversed(self.turns):
            if turn["role"] == "assistant":
                return str(turn["content"])
        raise UsageError("there is no answer yet.", fix="ask something first.")

    def load(self, path: Path) -> str:
        """Go on with a saved conversation: its messages, and its parameters, which are checked.

        Raises UsageError, and changes nothing then.
        """
        try:
            if path.stat().st_size > MOST_BYTES:
                raise UsageError(f"{path}: larger than a conversation.", fix="give another file.")
            saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
        except OSError as e:
            raise UsageError(
                f"{path}: {e.strerror}.", fix="give a file that /save wrote."
            ) from None
        except (msgspec.DecodeError, RecursionError) as e:
            raise UsageError(
                f"{path}: no saved conversation ({e}).", fix="give a file that /save wrote."
            ) from None
        values = {name: self.check(name, _words(value)) for name, value in saved.params.items()}
        first, *rest = saved.messages or [_Turn("system", "")]
        turns = rest if first.role == "system" else [first, *rest]
        if any(turn.role == "system" for turn in turns):
            raise UsageError(
                f"{path}: a system message in the middle.", fix="give a file that /save wrote."
            )
        others = [turn for turn in saved.messages if turn.role != "user"]
        if not all(isinstance(turn.content, str) for turn in others):
            raise UsageError(
                f"{path}: a picture that is not the user's.", fix="give a file that /save wrote."
            )
        self.system = str(first.content) or None if first.role == "system" else None
        self.params = values
        self.turns = [msgspec.to_builtins(turn) for turn in turns]
        self.attached = []
        return f"Loaded {len(turns)} turns from {path}."

    def save(self, path: Path, model: str) -> str:
        """Write model, parameters and messages as JSON; never overwrites an existing file."""
        saved = {"model": model, "params": self.params, "messages": self.messages()}
        try:
            with path.open("x", encoding="utf-8") as f:
                json.dump(saved, f, ensure_ascii=False, indent=2)
                f.write("\n")
        except FileExistsError:
            raise UsageError(f"{path} exists already.", fix="give another name.") from None
        except OSError as e:
            raise UsageError(f"{path}: {e.strerror}.", fix="give another name.") from None
        return f"Saved to {path}."


def _words(value: Any) -> str | list[str]:
    """A saved value as it would be typed after `/set NAME`; several stop strings stay apart."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return [str(part) for part in value] if isinstance(value, list) else str(value)


def _shown(value: Any) -> str:
    """A value as `/set` shows it, and takes it."""
    if value in (None, (), {}):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
