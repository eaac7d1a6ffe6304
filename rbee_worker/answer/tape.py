"""The text of an answer, one character at a time, and the pieces that were made of it.

A reader is a coroutine that takes characters from a `Tape`: it sees them one by one, so what it
makes of them cannot depend on how the text was cut. Characters that it has taken and not decided on
are kept (`raw`), to be given out as text if they turn out to be nothing else.

Some characters are hidden: those of special tokens that are not shown. They can be marks, or parts
of marks, and are never given out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import TypeVar

from rbee_worker.answer.automaton import Automaton
from rbee_worker.answer_parts import CallPiece, Part

T = TypeVar("T")
Generating = Generator[None, str | None, T]  # a coroutine that takes characters
Taking = Generating[str]
Trying = Generating[bool]
Doing = Generating[None]

END = ""  # taken instead of a character when there are no more
BLANK = " \t\r\n"
SEPARATORS = BLANK + ",;[]"
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Ids = Callable[[int, str], str]  # number of the call, name of the tool -> id


class Enough(Exception):
    """Another call begins and no more are wanted."""


class Tape:
    """Characters in, pieces out. ids: makes the ids of calls. most: calls that are wanted."""

    def __init__(self, ids: Ids, most: int | None = None) -> None:
        self.raw: list[str] = []  # taken and not decided on; "" for a hidden character
        self.hidden = False  # the character taken last is hidden
        self.pieces: list[Part] = []
        self.calls = 0  # that have begun
        self.said = False  # there has been text
        self.settling = False  # whatever is taken is decided on at once
        self._ids = ids
        self._most = most
        self._last = END
        self._again = False
        self._ended = False
        self._argued = False  # the current call has arguments
        self._body: list[str] = []  # of the current call behind its name, until it has some
        # of the text or reasoning that is being given out
        self._kind = "text"
        self._space = ""  # at its end: given out only before more of the same
        self._lead = False  # blanks at its beginning are dropped

    @property
    def held(self) -> int:
        """Visible characters that were taken and are neither given out nor used up."""
        return sum(map(len, self.raw)) + len(self._space)

    # ---- characters

    def take(self) -> Taking:
        """The next character; END when there are no more."""
        if self._again:
            self._again = False
            return self._last
        if self._ended:
            return END
        if self.settling:
            self.raw.clear()
        char = yield
        if char is None:
            self._ended = True
            char = END
        else:
            shown = "" if self.hidden else char
            self.raw.append(shown)
            if self.settling and not self._argued:
                self._body.append(shown)
        self._last = char
        return char

    def back(self) -> None:
        """The character taken last will be taken again."""
        self._again = not self._ended

    def unblank(self) -> Taking:
        """The next character that is no blank."""
        char = yield from self.take()
        while char and char in BLANK:
            char = yield from self.take()
        return char

    def until(self, marks: tuple[str, ...], most: int = 1 << 20) -> Generating[tuple[str, str]]:
        """The text up to the first of `marks`, and which it is; END if there is none within `most`
        characters."""
        automaton, node, found = automaton_of(marks), 0, list[str]()
        while char := (yield from self.take()):
            found.append(char)
            node = automaton.step(node, char)
            mark = automaton.match[node]
            if mark is not None:
                return "".join(found)[: -len(mark)], mark
            if len(found) >= most:
                break
        return "".join(found), END

    def seek(self, marks: tuple[str, ...], *, anything: bool) -> Taking:
        """The first of `marks`, after anything, or only after separators. END if there is none;
        the character that can begin none is then taken again."""
        automaton, node = automaton_of(marks), 0
        while char := (yield from self.take()):
            node = automaton.step(node, char)
            mark = automaton.match[node]
            if mark is not None:
                return mark
            if not anything and not automaton.hold[node] and char not in SEPARATORS:
                self.back()
                return END
        return END

    # ---- what becomes of them

    def settle(self) -> None:
        """What was taken is used up."""
        del self.raw[: len(self.raw) - self._again]

    def marked(self) -> None:
        """What was taken is a mark: blanks beside it are dropped."""
        self.settle()
        self._turn(self._kind)

    def paragraph(self) -> None:
        """A text of its own begins: a blank line tells it from one before."""
        if self.said:
            self._turn("text")
            self._space, self._lead = "\n\n", False

    def give_back(self) -> None:
        """What was taken is text after all."""
        self.settling = False
        self.release("text", int(self._again))

    def leave(self, some: bool, mark: str) -> None:
        """A section ends, with its closing mark or, END, without any. It is text if it had no call
        (some: it had), and so is anything but separators after its last call."""
        pending = self.raw[: len(self.raw) - self._again]
        if some and (mark != END or all(char in SEPARATORS for char in pending)):
            self.settle()
        else:
            self.give_back()

    def release(self, kind: str, keep: int) -> None:
        """Give out what was taken, without the last `keep` characters."""
        at = len(self.raw) - keep
        if at > 0:
            self.say(kind, "".join(self.raw[:at]))
            del self.raw[:at]

    def say(self, kind: str, text: str) -> None:
        """Give out text or reasoning. Blanks beside other parts of the answer are dropped."""
        if not text:
            return
        if kind != self._kind:
            self._turn(kind)
        if self._lead:
            text = text.lstrip(BLANK)
        body = text.rstrip(BLANK)
        if body:
            self._piece(self._space + body)
            self._lead, self._space = False, ""
        self._space += text[len(body) :]

    def begin(self, name: str) -> None:
        """A call of the tool `name` begins."""
        if self._most is not None and self.calls >= self._most:
            raise Enough
        self._turn("call")
        self.pieces.append(CallPiece(index=self.calls, id=self._ids(self.calls, name), name=name))
        self.calls += 1
        self._argued = False
        self._body.clear()
        self.settling = True

    def argue(self, text: str) -> None:
        """More of the call's arguments, which are JSON."""
        if text:
            self.pieces.append(CallPiece(index=self.calls - 1, arguments=text))
            self._argued = True

    def end(self) -> None:
        """The call is complete, or the text has ended within it."""
        if not self._argued and not self._ended:
            self.argue("{}")
        self.settling = False
        self.settle()

    def unread(self) -> None:
        """What was taken behind the call's name is told as its arguments, if it has none."""
        if not self._argued and not self._ended:
            text = "".join(self._body[: len(self._body) - self._again])
            self.argue(text if text.strip(BLANK) else "")

    def broken(self, closes: tuple[str, ...]) -> Doing:
        """The call cannot be read any further. All that is left up to the end of its section is
        told as its arguments: they are no JSON then, which a caller notices, as it would not if
        they were {}."""
        self.unread()
        automaton, node, kept = automaton_of(closes), 0, list[str]()
        while char := (yield from self.take()):
            kept.append("" if self.hidden else char)
            node = automaton.step(node, char)
            mark = automaton.match[node]
            if mark is not None:
                self.argue("".join(kept[: -len(mark)]))
                break
            done = len(kept) - automaton.hold[node]
            self.argue("".join(kept[:done]))
            del kept[:done]
        else:
            self.argue("".join(kept))
        self.end()

    def close(self) -> None:
        """The answer is complete."""
        if self._kind == "text":
            self._piece(self._space)
        self._space = ""

    def _turn(self, kind: str) -> None:
        """Another part of the answer begins."""
        self._kind, self._space, self._lead = kind, "", True

    def _piece(self, text: str) -> None:
        if text:
            self.said = self.said or self._kind == "text"
            self.pieces.append((self._kind, text))


@lru_cache(maxsize=256)
def automaton_of(marks: tuple[str, ...]) -> Automaton:
    """The automaton that finds these marks."""
    return Automaton(marks)


def merged(pieces: list[Part]) -> Iterator[Part]:
    """The pieces with neighbours of one kind joined."""
    kind, texts = "", list[str]()
    call: CallPiece | None = None
    for piece in [*pieces, None]:
        if isinstance(piece, tuple) and piece[0] == kind:
            texts.append(piece[1])
            continue
        if isinstance(piece, CallPiece) and call is not None and call.index == piece.index:
            texts.append(piece.arguments)
            continue
        if kind:
            yield kind, "".join(texts)
        elif call is not None:
            yield CallPiece(index=call.index, id=call.id, name=call.name, arguments="".join(texts))
        kind, call = "", None
        if isinstance(piece, tuple):
            kind, texts = piece[0], [piece[1]]
        elif piece is not None:
            call, texts = piece, [piece.arguments]


def call_ids(form: str, of: str) -> Ids:
    """A function that makes ids of calls, the same ones for the same answer. of: its name."""

    def make(number: int, name: str) -> str:
        if form == "counted":
            return f"functions.{name}:{number}"
        digest = hashlib.sha256(f"{of}/{number}".encode()).digest()
        if form == "call":
            return f"call_{digest.hex()[:24]}"
        return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:9])

    return make
