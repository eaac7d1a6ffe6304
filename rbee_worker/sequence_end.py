"""How a sequence ended: why, and what it took."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# COMPLETE: under the request's constraint nothing can follow.
Rule = Literal[
    "MAX_TOKENS",
    "EOS",
    "COMPLETE",
    "STOP_SEQUENCE",
    "CONTEXT_FULL",
    "CANCELLED",
    "TIMEOUT",
    "ERROR",
    "VECTOR",  # no tokens were wanted, but a vector, and it is there
]


class StopRecord(Struct, frozen=True, kw_only=True):
    """Why a sequence ended: one record for all causes."""

    rule: Rule
    at: int  # number of output tokens when it ended
    token_id: int | None = None  # the EOS or stop id
    token_text: str | None = None
    origin: str | None = None  # where the rule comes from: "request", "generation_config.json", ...
    sequence: str | None = None  # the stop string that matched


class Usage(Struct, frozen=True, kw_only=True):
    """Counts and times of one sequence; times in milliseconds.

    drafted_tokens: tokens that were guessed before they were drawn; accepted_tokens: those of them
    that were drawn. Both depend on the request and its tokens alone, and with a draft model also on
    how long steps take.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reasoning_tokens: int = 0  # of the output tokens
