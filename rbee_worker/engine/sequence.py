"""`Sequence`: one request as the engine sees it: ids, how far they are computed, and its clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee_worker.constraints.matcher import Masks, Matcher
from rbee_worker.engine.messages import Finished, Scheduled, Submit, Tokens
from rbee_worker.engine.pooling import Pooled
from rbee_worker.engine.rope_length import NO_END
from rbee_worker.engine.rounds import Rounds
from rbee_worker.engine.stop import StopRules
from rbee_worker.errors import WorkerError
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.state.pool import SeqState
from rbee_worker.types import TokenLogprob


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` is prompt and output in one list, shared with `state` (see state/pool.py).

    source: the tokens that the model's encoder reads, the prompt, if it has one; `tokens` then
    begins with the decoder's first one. limit: the length at which it ends at the latest. rope_len:
    the length that its rotary scaling uses while it has at most rope_end tokens (rope_length.py).
    drawing: tokens that launched steps draw and that are not collected yet. waits: the next token
    can be computed only once these are known. whole: all its tokens must be in one step (`StepKV`).
    fault: why it cannot be computed at all. pooled: what is known of its vector. counted: its draws
    depend on how often each token was drawn before. drafter: None if nothing is drafted for it.
    matcher: None if its text may be anything. one_row: its drafts cannot be computed here. solo: it
    was part of a step that failed, and runs alone until one of its steps succeeds.
    """

    submit: Submit
    tokens: list[int]
    limit: int
    rules: StopRules
    state: SeqState
    arrival: int
    arrived_s: float
    rope_len: int
    rope_end: int = NO_END
    source: tuple[int, ...] | None = None
    drawing: int = 0
    waits: bool = False
    whole: bool = False
    fault: str = ""
    pooled: Pooled = field(default_factory=Pooled)
    counted: bool = False
    one_row: bool = False
    drafter: Rounds | None = None
    matcher: Matcher | None = None
    adapter: int | None = 0  # its slot in the backend's memory; None: it is not loaded
    slot: int = -1  # the sampler's
    solo: bool = False
    strikes: int = 0
    preemptions: int = 0
    cached: int = 0  # tokens found in the prefix cache when it last left the queue
    reused: int = 0  # and when it first left the queue
    started_s: float = 0.0  # first scheduled
    first_token_s: float = 0.0
    scores: list[TokenLogprob | None] | None = field(default=None)  # of the prompt, if wanted
    done: bool = False

    @property
    def id(self) -> str:
        return self.submit.seq

    @property
    def prompt_len(self) -> int:
        return len(self.submit.prompt_ids)

    @property
    def read(self) -> int:
        """Tokens of the request's prompt."""
        return self.prompt_len if self.source is None else len(self.source)

    @property
    def n_output(self) -> int:
        return len(self.tokens) - len(self.submit.prompt_ids)

    @property
    def output(self) -> list[int]:
        return self.tokens[len(self.submit.prompt_ids) :]

    @property
    def wants(self) -> int:
        """Positions that can be planned now. The very last token need not be computed."""
        known = len(self.tokens)
        if self.drawing and not self.waits:
            known = max(known, min(known + self.drawing, self._blind_end))
        return max(min(known, self.limit - 1) - self.state.planned, 0)

    def ended(self) -> StopRecord | None:
        """The record if it ends with its last output token. An answer that is complete is so even
        where no further token would have fit."""
        record = self.rules.check(self.tokens[-1], self.n_output)
        if self.matcher is None or (record is not None and record.token_id is not None):
            return record
        self.matcher.follow(self.tokens, self.prompt_len)
        if self.matcher.complete:
            return StopRecord(rule="COMPLETE", at=self.n_output, origin="request")
        return record

    def forced(self) -> list[int]:
        """Append the next tokens as long as its constraint leaves no choice, up to one that ends
        it. They are what it would draw, without a step each. Not where a step tells more of a token
        (log-probabilities) or counts it (penalties)."""
        found: list[int] = []
        if self.matcher is None or self.counted or self.submit.params.logprobs is not None:
            return found
        while self.ended() is None:
            token = self.matcher.only()
            if token is None or self.rules.ends(token):
                break
            self.tokens.append(token)
            found.append(token)
        return found

    def masks(self, draft: tuple[int, ...]) -> Masks | None:
        """The tokens that its constraint allows after its last one, and after each of `draft`."""
        if self.matcher is None:
            return None
        self.matcher.follow(self.tokens, self.prompt_len)
        return self.matcher.masks(draft)

    def follow(self, length: int) -> tuple[int, int]:
        """Let the drafter see its first `length` tokens: see `Rounds.follow`."""
        return (0, 0) if self.drafter is None else self.drafter.follow(length)

    def draft(self) -> tuple[int, ...]:
        """The tokens that may come after all of its own, as far as one step can compute both.
        Before its first step there are none: whether its draws are counted is not known yet."""
        if self.drafter is None or self.slot < 0 or self.one_row:
            return ()
        self.drafter.follow(len(self.tokens))
        draft = self.drafter.draft()[: max(self.rope_end - len(self.tokens), 0)]
        if self.matcher is not None and draft:
            self.matcher.follow(self.tokens, self.prompt_len)
            return draft[: self.matcher.admits(draft)]
        return draft

    @property
    def _blind_end(self) -> int:
        """The length up to which it may be planned before its last tokens are known."""
        if self.drafter is None or self.one_row:
            return self.rope_end
        return min(self.rope_end, self.drafter.resting_until - 1)

    @property
    def reuse_limit(self) -> int | None:
        """The longest prefix that it may reuse: rows without prompt scores must be computed, and
        rows that its vector is made of."""
        if self.submit.pool is not None and self.submit.pool.how != "last":
            return 0
        if self.scores is None or not self.scoring:
            return None
        return len(self.scores) - 1

    @property
    def scoring(self) -> bool:
        """Whether prompt scores are wanted and not complete yet."""
        return self.scores is not None and len(self.scores) < self.prompt_len

    def scheduled(self, now_s: float) -> Scheduled:
        """The message that the sequence has left the queue."""
        return Scheduled(
            seq=self.id,
            tokens=len(self.tokens),
            cached=self.cached,
            waited_ms=(now_s - self.arrived_s) * 1e3,
        )

    def drew(self, token: int, logprob: TokenLogprob | None) -> Tokens:
        """The message of its next token."""
        drafter = self.drafter
        return Tokens(
            seq=self.id,
            ids=(token,),
            logprobs=None if logprob is None else (logprob,),
            drafted=0 if drafter is None else drafter.drafted,
            accepted=0 if drafter is None else drafter.accepted,
        )

    def finished(self, now_s: float, stop: StopRecord, error: WorkerError | None) -> Finished:
        """The message that the sequence has ended."""
        return Finished(
            seq=self.id,
            stop=stop,
            usage=self.usage(now_s),
            error=None if error is None else error.message,
            code=None if error is None else error.code,
        )

    def usage(self, now_s: float) -> Usage:
        """Counts and times up to now; a phase that was not reached counts as 0."""
        started = self.started_s or now_s
        first = self.first_token_s or now_s
        return Usage(
            prompt_tokens=self.read,
            cached_tokens=self.reused,
            output_tokens=self.n_output,
            queue_ms=(started - self.arrived_s) * 1e3,
            prefill_ms=(first - started) * 1e3,
            decode_ms=(now_s - first) * 1e3,
            preemptions=self.preemptions,
            drafted_tokens=0 if self.drafter is None else self.drafter.drafted,
            accepted_tokens=0 if self.drafter is None else self.drafter.accepted,
        )
