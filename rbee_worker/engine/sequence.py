"""`Sequence`: one request as the engine sees it: ids, how far they are computed, and its clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee_worker.engine.lookup import Drafter
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.rope_length import NO_END
from rbee_worker.engine.stop import StopRules
from rbee_worker.state.pool import SeqState
from rbee_worker.types import TokenLogprob, Usage


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` is prompt and output in one list, shared with `state` (see state/pool.py).

    limit: length at which it ends at the latest. rope_len: what its rotary scaling goes by, for as
    long as it has no more than rope_end tokens (rope_length.py). drawing: tokens that launched
    steps draw and that are not collected. waits: the next token can only be computed once these
    are known. counted: what is drawn depends on how often each token was drawn before. drafter:
    None where nothing is drafted. one_row: what is drafted cannot be computed here. solo: it was
    part of a step that failed and runs alone until one of its steps has succeeded.
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
    drawing: int = 0
    waits: bool = False
    counted: bool = False
    one_row: bool = False
    drafter: Drafter | None = None
    slot: int = -1  # the sampler's
    solo: bool = False
    strikes: int = 0
    preemptions: int = 0
    cached: int = 0  # tokens that needed no computing when it last left the queue
    reused: int = 0  # and when it left it first
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
    def n_output(self) -> int:
        return len(self.tokens) - len(self.submit.prompt_ids)

    @property
    def output(self) -> list[int]:
        return self.tokens[len(self.submit.prompt_ids) :]

    @property
    def wants(self) -> int:
        """Positions that can be planned now. The last token of all needs no computing."""
        known = len(self.tokens)
        if self.drawing and not self.waits:
            # a draft is made of tokens that are known
            end = (
                self.rope_end
                if self.drafter is None
                else min(self.rope_end, self.drafter.resting_until - 1)
            )
            known = max(known, min(known + self.drawing, end))
        return max(min(known, self.limit - 1) - self.state.planned, 0)

    def draft(self) -> tuple[int, ...]:
        """What may come after all its tokens, as far as a step can compute that beside them.
        Nothing before its first step, which says how its draws go."""
        if self.drafter is None or self.slot < 0 or self.one_row:
            return ()
        self.drafter.follow(len(self.tokens))
        return self.drafter.draft()[: max(self.rope_end - len(self.tokens), 0)]

    @property
    def reuse_limit(self) -> int | None:
        """Longest prefix it may take up: rows whose prompt scores are missing must be computed."""
        if self.scores is None or not self.scoring:
            return None
        return len(self.scores) - 1

    @property
    def scoring(self) -> bool:
        """Prompt scores are wanted and not complete."""
        return self.scores is not None and len(self.scores) < self.prompt_len

    def usage(self, now_s: float) -> Usage:
        """Counts and times up to now; a phase that was not reached took no time."""
        started = self.started_s or now_s
        first = self.first_token_s or now_s
        return Usage(
            prompt_tokens=self.prompt_len,
            cached_tokens=self.reused,
            output_tokens=self.n_output,
            queue_ms=(started - self.arrived_s) * 1e3,
            prefill_ms=(first - started) * 1e3,
            decode_ms=(now_s - first) * 1e3,
            preemptions=self.preemptions,
            drafted_tokens=0 if self.drafter is None else self.drafter.drafted,
            accepted_tokens=0 if self.drafter is None else self.drafter.accepted,
        )
