"""`Outcomes`: what the results of steps do to sequences, and the output that tells it."""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.engine.figures import Figures
from rbee_worker.engine.messages import Output, Pooled, Preempted, PromptScores, Rescaled
from rbee_worker.engine.new_sequences import NewSequences
from rbee_worker.engine.results import Draw, Vector
from rbee_worker.engine.scheduler import Scheduler
from rbee_worker.engine.sequence import Sequence
from rbee_worker.errors import InferenceFailed, WorkerError, as_worker_error
from rbee_worker.sequence_end import StopRecord
from rbee_worker.types import TokenLogprob


class Outcomes:
    """Output is collected in `out`, in order, until `taken`."""

    def __init__(
        self,
        scheduler: Scheduler,
        new: NewSequences,
        figures: Figures,
        *,
        kv_cache: bool,
        remove: Callable[[Sequence], None],
        clock: Callable[[], float],
    ) -> None:
        """kv_cache: see `Engine`. remove: takes an ended sequence out of all that has a part in
        it."""
        self.out: list[Output] = []
        self._scheduler = scheduler
        self._new = new
        self._figures = figures
        self._kv_cache = kv_cache
        self._remove = remove
        self._clock = clock

    def taken(self) -> list[Output]:
        """The output since the last call."""
        out, self.out = self.out, []
        return out

    def admitted(self, seq: Sequence) -> None:
        """A sequence left the queue."""
        now = self._clock()
        if not seq.started_s:  # after a preemption it finds its own prefix, which is no cache hit
            seq.started_s = now
            seq.reused = seq.cached
            self._figures.admitted(seq)
        self.out.append(seq.scheduled(now))

    def preempted(self, seq: Sequence) -> None:
        """A sequence went back to the queue."""
        self.out.append(Preempted(seq=seq.id, tokens=len(seq.tokens)))
        self._figures.preemptions += 1

    def took(self, seq: Sequence, draws: list[Draw]) -> None:
        """A sequence has just taken tokens; the last one may end it."""
        last = draws[-1]
        before = len(seq.tokens) - len(draws) + (last.error is not None)
        for length, draw in enumerate(draws, before + 1):
            if draw.error is not None:
                self.give_up(seq, InferenceFailed(draw.error))
                return
            seq.first_token_s = seq.first_token_s or self._clock()
            self._figures.drew(*seq.follow(length))
            self.out.append(seq.drew(draw.id, draw.logprob))
        ended = seq.ended()
        rope_len = self._new.ropes.of(seq.prompt_len, len(seq.tokens))
        if ended is not None:
            self.finish(seq, ended)
        elif rope_len != seq.rope_len:
            self._rescale(seq, rope_len)
        elif not self._kv_cache:
            self._scheduler.reset(seq)

    def pooled(self, seq: Sequence, vector: Vector) -> None:
        """A sequence's vector is computed, which is all that was wanted of it."""
        if vector.error is not None:
            self.give_up(seq, InferenceFailed(vector.error))
            return
        seq.first_token_s = self._clock()
        self.out.append(Pooled(seq=seq.id, data=vector.data))
        self.finish(seq, StopRecord(rule="VECTOR", at=0))

    def scored(self, seq: Sequence, scores: tuple[TokenLogprob, ...], *, drew: bool) -> None:
        """Take scores of the prompt; a sequence that wants nothing else ends when they are
        complete."""
        assert seq.scores is not None
        told = len(seq.scores) if len(seq.scores) > 1 else 0  # the first entry waits for others
        seq.scores.extend(scores)
        self.tell_scores(seq, told)
        ended = None if drew else seq.rules.length(seq.n_output)
        if ended is not None and not seq.scoring:
            self.finish(seq, ended)

    def tell_scores(self, seq: Sequence, start: int) -> None:
        """Tell the scores of the prompt from entry `start` on."""
        assert seq.scores is not None
        self.out.append(PromptScores(seq=seq.id, start=start, logprobs=tuple(seq.scores[start:])))

    def finish(self, seq: Sequence, stop: StopRecord, error: WorkerError | None = None) -> None:
        """End a sequence, wherever it is."""
        self._remove(seq)
        self.out.append(seq.finished(self._clock(), stop, error))

    def give_up(self, seq: Sequence, error: Exception) -> None:
        """End a sequence that cannot be computed any further."""
        self.finish(seq, StopRecord(rule="ERROR", at=seq.n_output), as_worker_error(error))

    def _rescale(self, seq: Sequence, rope_len: int) -> None:
        """A sequence has grown past a length from which on all its tokens use other frequencies."""
        seq.rope_len, seq.rope_end = rope_len, self._new.ropes.end(len(seq.tokens))
        self._scheduler.reset(seq, self._new.salt(seq.submit, rope_len))
        left = len(seq.tokens) - seq.state.computed
        self.out.append(Rescaled(seq=seq.id, tokens=left, past=rope_len - 1))
