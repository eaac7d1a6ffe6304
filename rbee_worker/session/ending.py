"""The end of an answer: its last event, and the record of why it ended."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rbee_worker.answer_parts import CallPiece, Part, merged_calls
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.sieve import Sieve
from rbee_worker.session.text import TextSide
from rbee_worker.types import End, TokenLogprob


def end_event(
    stop: StopRecord,
    usage: Usage,
    ids: Sequence[int],
    parts: Sequence[Part],
    logprobs: tuple[TokenLogprob, ...] | None,
) -> End:
    """The last event. ids, parts: what no event has had yet."""
    said = {"text": "", "reasoning": ""}
    for part in parts:
        if not isinstance(part, CallPiece):
            said[part[0]] += part[1]
    return End(
        stop=stop,
        usage=usage,
        ids=tuple(ids),
        text=said["text"],
        logprobs=logprobs,
        reasoning=said["reasoning"],
        calls=merged_calls([part for part in parts if isinstance(part, CallPiece)]),
    )


def matched_record(sieve: Sieve, at: int) -> StopRecord:
    """The record of an answer that the text side ended: by a stop string, or because another tool
    call began and no more were wanted."""
    found = None if sieve.matcher is None else sieve.matcher.found
    origin = "request" if found is not None else "parallel_tool_calls"
    return StopRecord(rule="STOP_SEQUENCE", at=at, sequence=found, origin=origin)


def completed_record(stop: StopRecord, text: TextSide, prepared: Prepared) -> StopRecord:
    """The engine's record with the text of its token, and where a limit comes from."""
    if stop.token_id is not None:
        name = text.tokenizer.token_text(stop.token_id)
        return msgspec.structs.replace(stop, token_text=name)
    if stop.rule == "MAX_TOKENS":
        origin = prepared.resolved.origins.get("max_tokens")
        return msgspec.structs.replace(stop, origin=origin)
    return stop
