"""Grammars compiled by llguidance, with limits on what a hostile one can take.

The process that checks constraints and the engine both compile with these limits, so what passed
the check compiles in the engine too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rbee_worker.constraints.words import Words

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# No tokenization is preferred: the model chooses among all that spell what the grammar allows.
OPTIONS = '%llguidance {"no_forcing": true}'

# Work is counted in the library's units of "fuel": the longest compilation takes seconds, the
# longest mask some ten milliseconds. A matcher that reaches a limit fails, and with it one answer.
_LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # of 1 to 2 kB
    "max_grammar_size": 500_000,
}

_TRIED = 8  # tokens


class GrammarFault(Exception):
    """The library cannot compile or follow a grammar; the text is its reason, in one line."""


class _Vocabulary:
    """What the library asks of a tokenizer. One more token, which is no text, stands for the end of
    the answer: it is allowed where the answer may end."""

    bos_token_id = None

    def __init__(self, words: Words) -> None:
        end = len(words.tokens)
        self.eos_token_id = end
        self.tokens: Sequence[bytes] = [*words.tokens, b"<end of the answer>"]
        self.special_token_ids: Sequence[int] = [*words.special, end]

    def __call__(self, text: object) -> list[int]:
        raise AssertionError("no tokenization is preferred")


def vocabulary(words: Words) -> LLTokenizer:
    """The library's form of a vocabulary; building it takes 0.1 to 0.5 s."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Vocabulary(words)))


def compiled(tokens: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the start of an answer. Raises GrammarFault. The interpreter's other threads run
    meanwhile."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False, **_LIMITS)  # type: ignore[arg-type]
    made = LLMatcher(tokens, grammar, log_level=0, limits=limits)
    if made.is_error():
        raise GrammarFault(reason(made))
    return made


def fault_at_start(tokens: LLTokenizer, grammar: str) -> str:
    """Why no answer can begin under a grammar; "" if one can. Some tokens are tried: a grammar that
    is too large often is so only after the first."""
    try:
        made = compiled(tokens, grammar)
    except GrammarFault as fault:
        return str(fault)
    for _ in range(_TRIED):
        if made.is_stopped():
            break
        allowed = int.from_bytes(made.compute_bitmask(), "little")
        if allowed:
            made.consume_token((allowed & -allowed).bit_length() - 1)
    return reason(made) if made.is_error() else ""


def reason(matcher: LLMatcher) -> str:
    """Why a matcher has failed, in one line."""
    told: str = matcher.get_error().split("\n   1 | ")[0].split("\n<")[0]
    if told.startswith("NoExtension"):
        return "no text satisfies it"
    if told.startswith("panic"):
        return "the grammar's library failed on it"
    return " ".join(told.split())[:300]
