"""`LiveRequest`: one request on the text side: what the engine says of it becomes events.

What is kept here is all that is needed to go on after an engine is lost.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from rbee_worker.engine.messages import (
    Finished,
    Pooled,
    Preempted,
    PromptScores,
    Rescaled,
    Scheduled,
    Submit,
    Tokens,
)
from rbee_worker.model_info import ModelInfo
from rbee_worker.observe import narration
from rbee_worker.sequence_end import Rule, StopRecord, Usage
from rbee_worker.session.answer_text import AnswerText
from rbee_worker.session.ending import completed_record, end_event
from rbee_worker.session.event_queue import EventQueue
from rbee_worker.session.given import Given
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.request_clock import RequestClock
from rbee_worker.session.text import TextSide
from rbee_worker.types import (
    Error,
    Metrics,
    Narration,
    PromptLogprobs,
    Request,
    Started,
    Vector,
)

METRICS_EVERY_S = 1.0
# What each engine that is lost counts for a request that it was running, until the request has two
# tokens of one engine: a crash, and a kill from outside, of which the request is seldom the reason.
CRASH, KILL = 3, 1
BLAMED = 3 * CRASH  # it fails

# What new tokens mean for the engine: go on; the answer is complete; go on, but from the tokens
# that the request has now, because some were written and not drawn.
After = Literal["go on", "stop", "start over"]


class LiveRequest:
    """seq: the request's name in the engine. events: what becomes of it, in order."""

    def __init__(
        self,
        request: Request,
        seq: str,
        prepared: Prepared,
        text: TextSide,
        given: Given | None = None,
    ) -> None:
        """given: what an earlier process gave out of this answer, which goes on after it."""
        self.request = request
        self.seq = seq
        self.prepared = prepared
        self.scheduled = False
        self.counted = False  # figures that an engine has told have its prompt
        self.ended = False  # the engine will send nothing more about it
        self._text = text
        self._wants_logprobs = prepared.resolved.params.logprobs is not None
        self.events = EventQueue(logprobs=self._wants_logprobs, given=given)
        self._answer = AnswerText(request.id, prepared, text, self.events)
        self._scored = 0 if given is None else given.scored  # prompt tokens whose scores were sent
        self._drafted = self._accepted = 0  # tokens of `output_ids`: see `Usage`
        self.metrics_due = 0.0
        # of the engine that has it now, and of those that were lost
        self.submitted = False
        self._running = False
        self.ending: Rule | None = None  # why it was cancelled, if it was
        self._from_this_engine = 0  # tokens
        self.lost_engines = self.blame = 0  # in a row, while they ran it; what they count
        self._resumed = False  # not all of it was done by one engine
        self._lost = "Engine"  # what its last interruption took
        self._replaying = given is not None
        self._clock = RequestClock()
        if self._answer.budget_is_spent():
            self._end_reasoning()
        if given is not None:
            self._replay(given)

    @property
    def output_ids(self) -> list[int]:
        """All ids drawn and kept so far."""
        return self._answer.output_ids

    def submit(self) -> Submit:
        """The message that starts it, or goes on with it in another engine."""
        self.submitted = True
        self._from_this_engine = 0
        if self._resumed:
            self._narrate(narration.resumed(self.request.id, len(self.output_ids), self._lost))
        self._lost = "Engine"
        return self._message()

    def renamed(self, seq: str) -> Submit:
        """Start over in the same engine, under another name: see `After`."""
        self.seq = seq
        self._resumed = True
        self._from_this_engine = 0
        return self._message()

    def _message(self) -> Submit:
        resolved = self.prepared.resolved
        params = resolved.params
        scores = params.echo and params.logprobs is not None
        return Submit(
            seq=self.seq,
            prompt_ids=self.prepared.prompt_ids,
            params=params,
            output_ids=tuple(self.output_ids),
            choice=self.request.choice,
            eos=self._text.eos,
            exempt_ids=resolved.exempt_ids,
            prompt_logprobs=scores and self._scored < len(self.prepared.prompt_ids),
            pool=self.prepared.pool or self.request.pool,
            second=self.prepared.second,
            adapter=self.prepared.adapter,
            drafted=self._drafted,
            accepted=self._accepted,
            counted=self.counted,
            grammar=self.prepared.grammar,
            pictures=self.prepared.pictures,
            voice=self.prepared.voice,
            guidance=self.prepared.guidance,
        )

    def started(self, model: ModelInfo) -> Started:
        """The first event. Its time is the wall clock's, in UTC."""
        resolved = self.prepared.resolved
        return Started(
            job_id=self.request.id,
            model=self.request.adapter or model.model,
            started_at=datetime.now(UTC).isoformat(),
            prompt_tokens=len(self.prepared.prompt_ids),
            seed=resolved.params.seed,
            sampling=resolved,
            warnings=model.notes + self.prepared.warnings,
            prompt_ids=self.prepared.prompt_ids,
            place="start" if self.prepared.reading is None else self.prepared.reading.place,
        )

    def _replay(self, given: Given) -> None:
        """Take the tokens of an earlier process, except the last one: the engine draws that again,
        and knows whether it ends the answer."""
        scores = iter(given.logprobs)
        while (n := len(self.output_ids)) < len(given.ids) - 1:
            self._answer.push(given.ids[n], next(scores, None))
            if self._answer.budget_is_spent():
                self._end_reasoning()
        self._resumed, self._lost, self._replaying = True, "Worker", False

    # ---- from the engine

    def tokens(self, m: Tokens) -> After:
        """Take new ids."""
        if self.stopped_early:
            return "go on"  # drawn before the engine learned that the answer is complete
        # The first token may come of computing prompt and earlier tokens once more; only the second
        # shows that the engine survives a step of this request's own.
        self._from_this_engine += len(m.ids)
        if self._from_this_engine > 1:
            self.lost_engines = self.blame = 0
        self._drafted, self._accepted = m.drafted, m.accepted
        for i, token_id in enumerate(m.ids):
            self._answer.push(token_id, None if m.logprobs is None else m.logprobs[i])
            if self.stopped_early:
                return "stop"
            if self._answer.budget_is_spent():
                self._end_reasoning()
                return "start over"
        return "go on"

    def pooled(self, m: Pooled) -> None:
        """Take the vector of a request that wants one."""
        self.events.add(Vector(data=m.data))

    def news(self, m: PromptScores | Scheduled | Preempted | Rescaled) -> None:
        """Take a message about the request other than its tokens."""
        if isinstance(m, PromptScores):
            fresh = m.logprobs[max(0, self._scored - m.start) :]  # all again after a restart
            if fresh:
                self._scored = m.start + len(m.logprobs)
                self.events.add(PromptLogprobs(logprobs=fresh))
        elif isinstance(m, Preempted):
            self._clock.preemptions += 1
            self._running = False
            self._narrate(narration.preempted(self.request.id, m.tokens))
        elif isinstance(m, Rescaled):
            self._narrate(narration.rescaled(self.request.id, m.tokens, m.past))
        else:
            self.scheduled = self._running = True
            self._clock.scheduled(m.cached)
            self._narrate(
                narration.prompt_scheduled(self.request.id, m.tokens, m.cached, m.waited_ms)
            )

    def finished(self, m: Finished) -> None:
        """The engine ended the request: flush the held text and close with `End` or `Error`."""
        self.ended = True
        if m.stop.rule == "ERROR" and not self.stopped_early:
            message = m.error or "the engine failed on this request."
            oom = m.code == "VRAM_OOM"
            self.events.add(Error(code="VRAM_OOM" if oom else "INFERENCE_FAILED", message=message))
            return
        tail = self._answer.flush()
        usage = self._usage() if self._resumed else m.usage
        usage = msgspec.structs.replace(
            usage,
            output_tokens=len(self.output_ids),
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            reasoning_tokens=self._answer.reasoned,
        )
        if self._drafted:
            self._narrate(narration.drafted(self.request.id, self._drafted, self._accepted))
        scores = tuple(self._answer.logprobs) if self._wants_logprobs else None
        stop = self._answer.matched() or completed_record(m.stop, self._text, self.prepared)
        self.events.add(end_event(stop, usage, self._answer.waiting, tail, scores))

    def end_here(self, rule: Rule) -> None:
        """End the request while no engine has it."""
        self._resumed = True
        record = StopRecord(rule=rule, at=len(self.output_ids))
        self.finished(Finished(seq=self.seq, stop=record, usage=self._usage()))

    # ---- when the engine is lost

    @property
    def stopped_early(self) -> bool:
        """A stop string is complete; only the engine's confirmation is missing."""
        return self._answer.matched_at is not None

    def to_blame(self, counts: int) -> bool:
        """Whether it fails once an engine is lost to a crash or a kill (what that counts)."""
        return self.blame + counts * self._running >= BLAMED

    def interrupted(self, why: str, counts: int) -> None:
        """The engine is gone, another will be started. Nothing that came from it is given back."""
        self.lost_engines += self._running
        self.blame += counts * self._running
        self.submitted = self.scheduled = self._running = False
        self._resumed = True
        self._narrate(narration.engine_restarting(why))

    def drafts_ended(self, why: str) -> None:
        """Nothing is drafted for it any more."""
        if self.prepared.resolved.params.speculation:
            self._narrate(narration.drafts_ended(self.request.id, why))

    def lost(self, message: str) -> None:
        """End the request with an error, because the engine is gone."""
        self.ended = True
        self.events.add(Error(code="ENGINE_LOST", message=message))

    def metrics(self, now: float, vram_bytes: int, kv_usage: float) -> None:
        """Emit figures. Called when they are due: at the first token (no event), then every
        second."""
        self.metrics_due = now + METRICS_EVERY_S
        if not self._clock.first_token_s:
            self._clock.first_token_s = now
            self._clock.first_tokens = len(self.output_ids)
        else:
            drawn = len(self.output_ids) - self._clock.first_tokens
            rate = drawn / (now - self._clock.first_token_s)
            told = Metrics(tokens_per_sec=rate, vram_bytes=vram_bytes, kv_usage=kv_usage)
            self.events.add_if_read(told)

    def _usage(self) -> Usage:
        return self._clock.usage(len(self.prepared.prompt_ids), len(self.output_ids))

    def _narrate(self, told: Narration) -> None:
        if not self._replaying:
            self.events.add_if_read(told)

    def _end_reasoning(self) -> None:
        """Write the end of the reasoning. An engine that already has this request must start over
        with these tokens; the next one is the same in any case."""
        self._narrate(narration.reasoning_ended(self.request.id, self._answer.reasoned))
        self._answer.end_reasoning()
