"""The text side of constraints: a request's constraint becomes a grammar, or a refusal that says
what cannot be held and where.

A grammar is compiled here first, in a process of its own (`constraint_child.py`), so that one that
takes too long, too much memory, or the library down is a refusal like any other. The engine
compiles it again.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from rbee_worker.constraints.unheld import Unheld
from rbee_worker.constraints.words import NOTHING, NOWHERE, Words
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.tokenizer.confined import Confined, TooMuch
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.types import Constraint, EosToken

_SCRIPT = Path(__file__).with_name("constraint_child.py")
_MODULES = ("rbee_worker", "llguidance", "msgspec")
_CPU_S, _WALL_S = 3.0, 20.0  # for one frame
_MEMORY = 4 << 30  # bytes of address space
_KEPT = 64  # grammars that are known to be good


class Constraints:
    """The constraints of one model. Threads may share it; checks run one at a time."""

    def __init__(self, tokenizer: Tokenizer, eos: tuple[EosToken, ...]) -> None:
        self._tokenizer, self._eos = tokenizer, eos
        self._words: Words | None = None
        self._lock = threading.Lock()
        limits = (str(_CPU_S), str(_MEMORY))
        self._child = Confined(_SCRIPT, modules=_MODULES, limits=limits, what="constraint")
        self._good: OrderedDict[Constraint, str] = OrderedDict()

    def words(self, rows: int) -> Words:
        """What constraints need to know of the vocabulary. rows: of the model's head."""
        if self._words is None:
            self._words = words_of(self._tokenizer, rows, {token.id for token in self._eos})
        return self._words

    def grammar(
        self,
        field: str,
        constraint: Constraint,
        rows: int,
        parts: Sequence[tuple[str, Constraint]] = (),
    ) -> str:
        """The grammar of answers that follow `constraint`, which can be compiled.

        field: the request's field, for errors; parts: what it was put together from, with their
        fields. Raises InvalidRequest, about the part if one cannot be held by itself.
        """
        try:
            return self._checked(field, constraint, rows)
        except InvalidRequest:
            for name, part in parts:
                self._checked(name, part, rows)
            raise

    def _checked(self, field: str, constraint: Constraint, rows: int) -> str:
        from rbee_worker.constraints.grammar import grammar_of  # late: few requests need it

        with self._lock:
            if constraint in self._good:
                self._good.move_to_end(constraint)
                return self._good[constraint]
            try:
                grammar = grammar_of(constraint)
                if fault := self._faults([grammar], rows)[0]:
                    raise self._placed(constraint, fault, rows)
            except Unheld as unheld:
                raise _refusal(field, unheld) from None
            self._good[constraint] = grammar
            if len(self._good) > _KEPT:
                self._good.popitem(last=False)
            return grammar

    def close(self) -> None:
        """End the process. The next check starts another."""
        self._child.interrupt()  # also where a request waits for it
        with self._lock:
            self._child.close()

    def _placed(self, constraint: Constraint, fault: str, rows: int) -> Unheld:
        """The library's fault, with the place in the schema that it is about: the smallest part
        that fails on its own, and there the keyword without which it does not."""
        from rbee_worker.constraints.places import candidates, without  # late, like the grammar

        if constraint.kind != "json_schema":
            return Unheld(fault if constraint.kind == "lark" else _plain(fault), "")
        tried = candidates(constraint.text)
        for (pointer, part), told in zip(tried, self._tried(tried, rows), strict=True):
            if told:
                fewer = without(pointer, part)
                for (at, _), still in zip(fewer, self._tried(fewer, rows), strict=True):
                    if not still:
                        return Unheld(_plain(told), at)
                return Unheld(_plain(told), pointer)
        return Unheld(_plain(fault), "")

    def _tried(self, parts: list[tuple[str, Constraint]], rows: int) -> list[str]:
        """The fault of each part of a schema on its own, "" for one that says nothing."""
        from rbee_worker.constraints.grammar import grammar_of

        grammars: dict[str, str] = {}
        for pointer, part in parts:
            try:
                grammars[pointer] = grammar_of(part)
            except Unheld:
                continue  # it refers to what only the whole has
        try:
            faults = dict(zip(grammars, self._faults([*grammars.values()], rows), strict=True))
        except Unheld:
            return [""] * len(parts)
        return [faults.get(pointer, "") for pointer, _ in parts]

    def _faults(self, grammars: list[str], rows: int) -> list[str]:
        """Why no answer can begin under each grammar, "" if one can. Raises Unheld if that takes
        too much."""
        body = json.dumps({"grammars": grammars}).encode()

        def frames(new: bool) -> list[bytes]:
            return [self._known(rows), body] if new else [body]

        try:
            told: list[str] = self._child.ask(frames, _WALL_S)["faults"]
        except TooMuch as e:
            why = {
                "wall time": f"more than {_WALL_S:g} s",
                "processor time": f"more than {_CPU_S:g} s of processor time",
                "memory": "too much memory",
            }[e.limit]
            raise Unheld(f"compiling it takes {why}", "") from None
        return told

    def _known(self, rows: int) -> bytes:
        """What the process must know first: the vocabulary."""
        words = self.words(rows)
        tokens = [token.decode("latin-1") for token in words.tokens]
        return json.dumps({"tokens": tokens, "special": words.special}).encode()


def words_of(tokenizer: Tokenizer, rows: int, ends: set[int]) -> Words:
    """What every id below `rows` is as text. ends: ids that end an answer, which are no text."""
    special = {i for i in tokenizer.special_ids | ends if i < rows}
    tokens, opening = [], {}
    for i in range(rows):
        name = tokenizer.token_text(i).encode() if i in special else b""
        tokens.append(name or tokenizer.joined_bytes(i))
    by_bytes = {data: i for i, data in reversed([*enumerate(tokens)]) if i not in special}
    for i, data in enumerate(tokens):
        if i not in special and data:
            first = tokenizer.opened(i)
            if first != data:
                opening[i] = by_bytes.get(first, NOWHERE) if first else NOTHING
    return Words(tokens=tuple(tokens), special=tuple(sorted(special)), opening=opening)


def _plain(fault: str) -> str:
    """The library's fault without places in a text that its reader has not written."""
    text = re.sub(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?", "", fault)
    return text.partition(" Enable ")[0].rstrip(".")


def _refusal(field: str, unheld: Unheld) -> InvalidRequest:
    where = f"{field}#{unheld.pointer}" if unheld.pointer else field
    return InvalidRequest([FieldError(where, "a constraint that can be held", unheld.message)])
