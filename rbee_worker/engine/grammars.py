"""`Grammars`: compiles the grammars of sequences beside the steps, and hands each its matcher.

A sequence with a constraint waits here until its grammar is compiled; then it enters the scheduler
like any other. Compiled grammars are kept, so that the next request with one does not wait.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from rbee_worker.constraints.compiled import GrammarFault, compiled, vocabulary
from rbee_worker.constraints.matcher import Matcher, Opening
from rbee_worker.constraints.words import Words
from rbee_worker.engine.sequence import Sequence
from rbee_worker.errors import InferenceFailed, WorkerError, as_worker_error

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 16  # compiled grammars
_PATIENCE_S = 0.02  # the engine looks for new commands this often while it has only grammars


class Grammars:
    """One thread that compiles, in order of arrival."""

    def __init__(self) -> None:
        self._words: Words | None = None
        self._tokens: LLTokenizer | None = None
        self._opening: Opening | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._waiting: dict[Sequence, Future[LLMatcher]] = {}

    @property
    def idle(self) -> bool:
        """Whether no sequence waits here."""
        return not self._waiting

    def learn(self, words: Words) -> None:
        """The vocabulary, before the first constraint."""
        if words != self._words:
            self._words, self._tokens = words, None
            self._kept.clear()

    def begin(self, seq: Sequence) -> None:
        """Compile a sequence's grammar; `ready` has it later."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="rbee-grammar")
        self._waiting[seq] = self._thread.submit(self._compiled, seq.submit.grammar)

    def drop(self, seq: Sequence) -> bool:
        """A sequence ends here. Returns whether it was waiting here."""
        future = self._waiting.pop(seq, None)
        return future is not None and (future.cancel() or True)

    def ready(self, *, patient: bool) -> list[tuple[Sequence, WorkerError | None]]:
        """The sequences whose grammars are compiled, each with its matcher or with an error.

        patient: there is nothing else to do, so wait a moment for one.
        """
        if patient and self._waiting:
            wait([next(iter(self._waiting.values()))], _PATIENCE_S)
        found: list[tuple[Sequence, WorkerError | None]] = []
        for seq, future in [*self._waiting.items()]:
            if not future.done():
                break  # the first that came goes first
            del self._waiting[seq]
            found.append((seq, self._given(seq, future)))
        return found

    def _given(self, seq: Sequence, future: Future[LLMatcher]) -> WorkerError | None:
        """Give a sequence its matcher; returns why there is none."""
        assert self._words is not None
        try:
            inner = future.result().deep_copy()
        except GrammarFault as fault:
            return InferenceFailed(f"the constraint cannot be held: {fault}")
        except Exception as error:  # it must not end the engine
            return as_worker_error(error)
        special = set(self._words.special)
        ends = [*seq.rules.eos, *(seq.rules.stop_ids & special)]
        assert self._opening is not None
        seq.matcher = Matcher(inner, self._opening, ends)
        return None

    def _compiled(self, grammar: str) -> LLMatcher:
        """In the thread. Raises GrammarFault."""
        if grammar not in self._kept:
            assert self._words is not None, "the vocabulary comes first"
            if self._tokens is None:
                self._tokens, self._opening = vocabulary(self._words), Opening(self._words)
            self._kept[grammar] = compiled(self._tokens, grammar)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(grammar)
        return self._kept[grammar]
