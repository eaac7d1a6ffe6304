"""The vocabulary of narrations: what is happening, in sentences for people.

One function per event. `actor` is who acts, `action` a word that programs may filter by, `target`
what the action applies to, `human` the sentence. A narration never contains prompt or answer text.
This module does not know where a narration goes (stream, terminal, log).
"""

from __future__ import annotations

from rbee_worker.sequence_end import StopRecord
from rbee_worker.types import Narration

ENGINE = "engine"
SCHEDULER = "scheduler"
TOKENIZER = "tokenizer"
LOADER = "loader"
JOURNAL = "journal"

_STOPS = {
    "CONTEXT_FULL": "the context is full",
    "COMPLETE": "under its constraint nothing can follow",
    "CANCELLED": "cancelled",
    "TIMEOUT": "ran out of time",
    "ERROR": "an error",
    "VECTOR": "the vector is complete",
}


def queued(job_id: str, ahead: int) -> Narration:
    """The request waits behind `ahead` other requests."""
    human = "Next in line." if ahead == 0 else f"Queued behind {_count(ahead, 'request')}."
    return Narration(actor=SCHEDULER, action="queued", target=job_id, human=human, job_id=job_id)


def prompt_scheduled(job_id: str, tokens: int, cached: int, waited_ms: float) -> Narration:
    """A prompt of `tokens` tokens leaves the queue; `cached` of them are in the prefix cache."""
    human = f"Reading a prompt of {_count(tokens, 'token')}"
    if cached:
        human += f", {cached} of them cached"
    if waited_ms >= 100:
        human += f", after {waited_ms / 1000:.1f} s in the queue"
    return Narration(
        actor=SCHEDULER, action="scheduled", target=job_id, human=human + ".", job_id=job_id
    )


def preempted(job_id: str, tokens: int) -> Narration:
    """The cache is full: the sequence releases its blocks and computes `tokens` tokens again."""
    human = f"Paused to make room: {_count(tokens, 'token')} will be computed again."
    return Narration(actor=SCHEDULER, action="preempted", target=job_id, human=human, job_id=job_id)


def drafted(job_id: str, drafted: int, accepted: int) -> Narration:
    """At the end: tokens that were guessed before they were drawn, and those that came."""
    human = f"{_count(drafted, 'token')} of the answer drafted, {accepted:,} of them drawn."
    return Narration(actor=ENGINE, action="drafted", target=job_id, human=human, job_id=job_id)


def drafts_ended(job_id: str, why: str) -> Narration:
    """What drafted tokens cannot be used any more; the answer's tokens do not depend on it."""
    human = f"Nothing is drafted any more ({why}); the answer is the same without drafts."
    return Narration(actor=ENGINE, action="drafts_ended", target=job_id, human=human, job_id=job_id)


def reasoning_ended(job_id: str, tokens: int) -> Narration:
    """The reasoning has used its budget: its end is written, and the answer begins."""
    human = f"{_count(tokens, 'token')} of reasoning: that is its budget. The answer begins."
    return Narration(
        actor=TOKENIZER, action="reasoning_ended", target=job_id, human=human, job_id=job_id
    )


def rescaled(job_id: str, tokens: int, past: int) -> Narration:
    """The answer made the sequence longer than `past` tokens, from where the model uses other
    rotary frequencies: `tokens` tokens are computed again."""
    human = (
        f"Beyond {_count(past, 'token')} this model encodes positions differently: "
        f"{_count(tokens, 'token')} will be computed again."
    )
    return Narration(actor=SCHEDULER, action="rescaled", target=job_id, human=human, job_id=job_id)


def engine_restarting(reason: str) -> Narration:
    """The engine process was lost and a new one is starting."""
    human = f"The engine stopped ({reason}); starting a new one."
    return Narration(actor=ENGINE, action="restarting", target=ENGINE, human=human)


def resumed(job_id: str, at: int, lost: str = "Engine") -> Narration:
    """After a restart the request continues; its `at` output tokens are kept. lost: what was
    restarted, the engine or the whole worker."""
    human = f"{lost} restarted; resumed at token {at}."
    return Narration(actor=ENGINE, action="resumed", target=job_id, human=human, job_id=job_id)


def memory_only(job_id: str, reason: str) -> Narration:
    """The journal cannot be written: the job is not kept beyond the worker's life."""
    human = f"The journal cannot be written ({reason}): this job is now kept in memory only."
    return Narration(actor=JOURNAL, action="memory_only", target=job_id, human=human, job_id=job_id)


def downloading(done: str, total: str) -> Narration:
    """The model is being fetched; done, total: sizes as text, total "" if unknown."""
    human = f"Fetching the model: {done}" + (f" of {total}" if total else "")
    return Narration(actor=LOADER, action="downloading", target="model", human=human + ".")


def compiling(done: int, total: int, last: str) -> Narration:
    """A first start compiles kernels for this processor; `last`: the one just finished."""
    human = f"Compiling CPU kernels: {done} of {total}" + (f", {last}" if last else "")
    return Narration(actor=LOADER, action="compiling", target="kernels", human=human + ".")


def loading(stage: str, done: int, total: int) -> Narration:
    """A step of loading the model: `done` of `total` layers, total 0 if not counted."""
    human = f"{stage.capitalize()} the model"
    if total:
        human += f": {done} of {_count(total, 'layer')}"
    return Narration(actor=LOADER, action=stage, target="model", human=human + ".")


def ready(model: str, device: str, seconds: float) -> Narration:
    """The engine can serve."""
    human = f"{model} is ready on {device} after {seconds:.1f} s."
    return Narration(actor=ENGINE, action="ready", target=model, human=human)


def tokenizer_warning(warning: str) -> Narration:
    """A problem with the vocabulary that may make answers worse."""
    return Narration(actor=TOKENIZER, action="warning", target="vocabulary", human=warning)


def why_stopped(stop: StopRecord) -> str:
    """The stop record in a few words: "end token <|im_end|> (from config.json)"."""
    if stop.rule == "EOS":
        origin = f" (from {stop.origin})" if stop.origin else ""
        return f"end token {stop.token_text or stop.token_id}{origin}"
    if stop.rule == "STOP_SEQUENCE":
        if stop.sequence is not None:
            return f"stop string {stop.sequence!r}"
        if stop.origin == "parallel_tool_calls":
            return "one tool call"
        return f"stop token {stop.token_text or stop.token_id}"
    if stop.rule == "MAX_TOKENS":
        origin = f" ({stop.origin})" if stop.origin else ""
        return f"max_tokens of {stop.at} reached{origin}"
    return _STOPS[stop.rule]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
