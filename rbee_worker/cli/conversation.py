"""A conversation as data, and the slash commands that change it. No terminal, no engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_worker.errors import UsageError

HELP = """\
/set NAME VALUE   change a sampling parameter; /set NAME alone resets it; /set lists all
/system [TEXT]    set the system message; without TEXT show it; /system - removes it
/reset            forget the conversation (system message and parameters stay)
/retry            answer the last question again
/stats            speed and token counts of this conversation
/save [FILE]      write the conversation as JSON
/help             this list
/quit             leave (as Ctrl-D does)

Enter sends; Alt-Enter (or a \\ at the end of a line) starts a new line.
Ctrl-C stops an answer, or clears the line; arrow keys recall earlier lines."""

Parse = Callable[[str, str], Any]  # (parameter, text) -> value; raises UsageError


@dataclass
class Conversation:
    """The turns so far, the system message, and the parameters that the user set.

    check: parses a parameter's value from text, and refuses values that no request may have.
    """

    check: Parse
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    def messages(self) -> tuple[dict[str, str], ...]:
        """The messages of a request: the system message, then the turns."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return tuple(head + self.turns)

    def ask(self, text: str) -> None:
        """Add the user's turn."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the model's turn. An empty answer removes the question, so that roles alternate."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self.turns.pop()

    def retry(self) -> str:
        """Remove the last question and its answer; returns the question."""
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        if not self.turns:
            raise UsageError("there is nothing to answer again.", fix="ask something first.")
        return self.turns.pop()["content"]

    def set(self, rest: str) -> str:
        """`/set NAME VALUE`, `/set NAME`, `/set`; returns the text to show."""
        name, _, text = rest.strip().partition(" ")
        name, text = name.replace("-", "_"), text.strip()
        if not name:
            listed = ", ".join(f"{k} = {v}" for k, v in self.params.items())
            return listed or "Every parameter has its default."
        if not text:
            self.params.pop(name, None)
            return f"{name} has its default."
        self.params[name] = self.check(name, text)
        return f"{name} = {self.params[name]}"

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
        return "Conversation forgotten."

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
