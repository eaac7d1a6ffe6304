"""Events between the engine's pace and a slow reader's."""

from __future__ import annotations

import pytest

from rbee_worker.answer_parts import CallPiece
from rbee_worker.session.event_queue import EventQueue
from rbee_worker.types import Token, TokenLogprob


def scored(*ids: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(id=i, logprob=-float(i)) for i in ids)


@pytest.mark.parametrize("logprobs", [False, True])
def test_log_probabilities_are_of_the_part_that_their_event_has(logprobs: bool) -> None:
    """However late the reader comes: APIs give those of the text alone."""
    queue = EventQueue(logprobs=logprobs)
    call = CallPiece(index=0, id="c", name="f", arguments="{}")
    for part, at in ((("reasoning", "a"), 1), (("text", "b"), 2), (call, 3), (("text", "d"), 4)):
        queue.push([part], [at], scored(at) if logprobs else ())
    events = []
    while (event := queue.take()) is not None:
        assert isinstance(event, Token)
        events.append((event.reasoning, event.t, len(event.calls), event.ids))
    if logprobs:
        assert events == [
            ("a", "", 0, (1,)), ("", "b", 0, (2,)), ("", "", 1, (3,)), ("", "d", 0, (4,))
        ]  # fmt: skip
    else:
        assert events == [("a", "b", 1, (1, 2, 3)), ("", "d", 0, (4,))]
