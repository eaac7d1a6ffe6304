"""The sentences people read, exactly."""

import pytest

from rbee_worker.observe import narration
from rbee_worker.sequence_end import StopRecord
from rbee_worker.types import Narration


@pytest.mark.parametrize(
    ("told", "human"),
    [
        (narration.queued("j", 0), "Next in line."),
        (narration.queued("j", 1), "Queued behind 1 request."),
        (narration.queued("j", 3), "Queued behind 3 requests."),
        (
            narration.prompt_scheduled("j", 512, 480, 5),
            "Reading a prompt of 512 tokens, 480 of them cached.",
        ),
        (
            narration.prompt_scheduled("j", 1, 0, 1500),
            "Reading a prompt of 1 token, after 1.5 s in the queue.",
        ),
        (
            narration.preempted("j", 1200),
            "Paused to make room: 1,200 tokens will be computed again.",
        ),
        (
            narration.rescaled("j", 4097, 4096),
            "Beyond 4,096 tokens this model encodes positions differently: "
            "4,097 tokens will be computed again.",
        ),
        (
            narration.drafted("j", 1480, 1093),
            "1,480 tokens of the answer drafted, 1,093 of them drawn.",
        ),
        (
            narration.drafts_ended("j", "the files of the draft model are gone"),
            "Nothing is drafted any more (the files of the draft model are gone); "
            "the answer is the same without drafts.",
        ),
        (narration.resumed("j", 37), "Engine restarted; resumed at token 37."),
        (narration.loading("loading", 3, 30), "Loading the model: 3 of 30 layers."),
        (narration.downloading("1.0 MB", "98.4 MB"), "Fetching the model: 1.0 MB of 98.4 MB."),
        (narration.downloading("1.0 MB", ""), "Fetching the model: 1.0 MB."),
        (narration.loading("opening", 0, 0), "Opening the model."),
        (narration.ready("smollm2", "cpu", 1.25), "smollm2 is ready on cpu after 1.2 s."),
    ],
)
def test_sentences(told: Narration, human: str) -> None:
    assert told.human == human
    assert told.actor
    assert told.action
    assert told.target


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (
            StopRecord(rule="MAX_TOKENS", at=4, origin="default"),
            "max_tokens of 4 reached (default)",
        ),
        (
            StopRecord(rule="EOS", at=4, token_id=2, token_text="</s>", origin="config.json"),
            "end token </s> (from config.json)",
        ),
        (StopRecord(rule="EOS", at=4, token_id=2), "end token 2"),
        (StopRecord(rule="STOP_SEQUENCE", at=4, sequence="\n\n"), r"stop string '\n\n'"),
        (StopRecord(rule="STOP_SEQUENCE", at=4, token_id=9, token_text="x"), "stop token x"),
        (StopRecord(rule="CONTEXT_FULL", at=4), "the context is full"),
        (StopRecord(rule="CANCELLED", at=4), "cancelled"),
        (StopRecord(rule="TIMEOUT", at=4), "ran out of time"),
    ],
)
def test_why_stopped(stop: StopRecord, words: str) -> None:
    assert narration.why_stopped(stop) == words
