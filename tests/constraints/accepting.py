"""Which texts a constraint admits, with a vocabulary of single bytes."""

from __future__ import annotations

import functools
import json
import lzma
from pathlib import Path
from typing import Any

from rbee_worker.constraints.compiled import GrammarFault, compiled, fault_at_start, vocabulary
from rbee_worker.constraints.grammar import grammar_of
from rbee_worker.constraints.words import Words
from rbee_worker.types import Constraint

DATA = Path(__file__).parents[1] / "data"
BYTES = Words(tokens=tuple(bytes([i]) for i in range(256)))


@functools.cache
def _tokens() -> Any:
    return vocabulary(BYTES)


class Accepting:
    """A compiled constraint. Raises Unheld or GrammarFault if it cannot be held."""

    def __init__(self, kind: Any, text: str) -> None:
        self.grammar = grammar_of(Constraint(kind=kind, text=text))
        if fault := fault_at_start(_tokens(), self.grammar):
            raise GrammarFault(fault)
        self._inner = compiled(_tokens(), self.grammar)

    def __call__(self, text: str) -> bool:
        """Whether the whole text may be an answer."""
        self._inner.reset()
        data = text.encode("utf-8", "surrogatepass")
        taken = self._inner.try_consume_tokens(list(data))
        return taken == len(data) and bool(self._inner.is_accepting())


def schema(value: Any) -> Accepting:
    """A schema as a constraint."""
    return Accepting("json_schema", json.dumps(value))


def data(name: str) -> Any:
    """A file of tests/data (SCHEMAS.md says where they come from)."""
    return json.loads(lzma.decompress((DATA / name).read_bytes()))
