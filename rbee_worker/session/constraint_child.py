"""The process that checks constraints: `python -I constraint_child.py DIR.. CPU_S MEMORY`.

A grammar comes with a request and is not trusted: compiling it may take long or much memory, or
bring the library down. Here that costs only this process.

In: {"tokens": [a character for each byte], "special": [id]} once, then {"grammars": [text]}.
Out: {}, then {"faults": [why no answer can begin; "" if one can]}, one for each grammar.
"""

from __future__ import annotations

import signal
import sys
from typing import Any


def main(argv: list[str]) -> None:
    """Serve frames until the input ends."""
    *paths, cpu_s, memory = argv
    sys.path[:0] = paths  # before any other copy of the worker
    from rbee_worker.tokenizer.render_child import serve

    serve(_Checker().answer, float(cpu_s), int(memory))


class _Checker:
    """One vocabulary, and what is asked of it."""

    def __init__(self) -> None:
        from rbee_worker.constraints.compiled import fault_at_start, vocabulary
        from rbee_worker.constraints.words import Words

        self._fault, self._vocabulary, self._words = fault_at_start, vocabulary, Words
        self._fault(vocabulary(Words(tokens=(b"a",))), 'start: "a"')  # all that is imported late
        self._tokens: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The frame that answers `request`."""
        if "tokens" in request:
            signal.setitimer(signal.ITIMER_PROF, 0)  # the model's own words may take their time
            tokens = tuple(token.encode("latin-1") for token in request["tokens"])
            self._tokens = self._vocabulary(
                self._words(tokens=tokens, special=tuple(request["special"]))
            )
            return {}
        return {"faults": [self._fault(self._tokens, one) for one in request["grammars"]]}


if __name__ == "__main__":
    main(sys.argv[1:])
