"""Scores of a prompt come in pieces, each token's once, whatever engine they come from."""

from __future__ import annotations

from pathlib import Path

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.engine.messages import PromptScores
from rbee_worker.session.live_request import LiveRequest
from rbee_worker.session.prepare import Prepared
from rbee_worker.session.text import open_text
from rbee_worker.types import (
    PromptLogprobs,
    Request,
    Resolved,
    SamplingParams,
    TokenLogprob,
)
from tests import tiny

SCORES = (None, *(TokenLogprob(id=i, logprob=-1.0 * i) for i in range(1, 7)))


def told(folder: Path, *pieces: tuple[int, int]) -> list[tuple[TokenLogprob | None, ...]]:
    """What the caller hears of scores [start, end) that engines send in this order."""
    text = open_text(open_checkpoint(str(tiny.write_safetensors(folder))))
    params = SamplingParams(max_tokens=1, echo=True, logprobs=0)
    ids = tuple(range(len(SCORES)))
    live = LiveRequest(
        Request(id="r", token_ids=ids),
        "0/r",
        Prepared(ids, Resolved(params=params, origins={})),
        text,
    )
    for start, end in pieces:
        live.news(PromptScores(seq="0/r", start=start, logprobs=SCORES[start:end]))
    heard = [live.events.take() for _ in range(len(live.events))]
    return [e.logprobs for e in heard if isinstance(e, PromptLogprobs)]


def test_one_event_for_each_piece(tmp_path: Path) -> None:
    assert told(tmp_path, (0, 3), (3, 7)) == [SCORES[:3], SCORES[3:]]


def test_an_engine_that_begins_again_repeats_nothing(tmp_path: Path) -> None:
    assert told(tmp_path, (0, 3), (0, 2), (2, 5), (5, 7)) == [SCORES[:3], SCORES[3:5], SCORES[5:]]
