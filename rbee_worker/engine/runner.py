"""`Runner`: the part of the engine that touches tensors: model, state, sampler, prompt scores."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Protocol

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from rbee_worker.engine.batch import ScoreRows, StepBatch
from rbee_worker.engine.decoding import Batches
from rbee_worker.engine.messages import StepTimes
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.ops.batch import Batch
from rbee_worker.state.fixed import Copy
from rbee_worker.state.specs import StateGroup
from rbee_worker.state.tensors import StateTensors
from rbee_worker.types import TokenLogprob

if TYPE_CHECKING:
    from rbee_worker.engine.sampler import Sampler

SCORE_ROWS = 64  # rows of logits held at once while scoring a prompt


class Model(Protocol):
    """What the engine needs of a model."""

    @property
    def groups(self) -> tuple[StateGroup, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...

    def hidden(self, batch: Batch) -> Tensor:
        """N rows -> [N, dim]"""
        ...

    def head(self, rows: Tensor) -> Tensor:
        """[S, dim] -> logits float32 [S, vocab]"""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """head(hidden(batch)[batch.sample_rows]), bit for bit, and sooner if it can be"""
        ...


class Draw(Struct, frozen=True):
    """The token drawn for the last row of a chunk; `error`: why there is none."""

    chunk: Chunk
    id: int
    logprob: TokenLogprob | None
    error: str | None = None


class Scores(Struct, frozen=True):
    """Log-probabilities of the next prompt tokens of a chunk's sequence."""

    chunk: Chunk
    logprobs: tuple[TokenLogprob, ...]


class Runner:
    """Owns one sampler slot for each running sequence."""

    def __init__(
        self, model: Model, tensors: StateTensors, sampler: Sampler, *, max_seqs: int, device: str
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._batches = Batches(tensors, device)
        self._sampler = sampler
        self._slots = list(range(max_seqs - 1, -1, -1))

    def enter(self, seq: Sequence) -> None:
        """A sequence starts or resumes: its parameters and counts go to the sampler."""
        seq.slot = self._slots.pop()
        m = seq.submit
        self._sampler.add(
            seq.slot,
            m.params,
            m.prompt_ids,
            seq.output,
            eos_ids=[e.id for e in m.eos],
            exempt_ids=m.exempt_ids,
            choice=m.choice,
        )

    def leave(self, seq: Sequence) -> None:
        """It no longer runs: its slot is free."""
        if seq.slot >= 0:
            self._sampler.remove(seq.slot)
            self._slots.append(seq.slot)
            seq.slot = -1

    def run(self, chunks: Seq[Chunk], copies: Seq[Copy] = ()) -> tuple[list[Draw], list[Scores]]:
        """Copy recurrent state from slot to slot, then compute the chunks; draw and score what they
        ask for. Whatever goes wrong is raised."""
        self._tensors.copy(copies)
        step = self._batches.build(chunks)
        if step.scores or not step.draws:
            return self._run_scored(step)
        return self._draw(step, self._model.logits(step.batch)), []

    @torch.inference_mode()
    def _run_scored(self, step: StepBatch) -> tuple[list[Draw], list[Scores]]:
        """Where prompts are scored the hidden states are needed more than once."""
        hidden = self._model.hidden(step.batch)
        rows, n = step.batch.sample_rows, len(step.draws)
        draws = self._draw(step, self._model.head(hidden[rows[:n]])) if n else []
        scores = []
        for part in step.scores:
            scores.append(self._score(hidden[rows[n : n + len(part.targets)]], part))
            n += len(part.targets)
        return draws, scores

    def _draw(self, step: StepBatch, logits: Tensor) -> list[Draw]:
        """One token for each chunk that draws: logits [S, vocab] in their order."""
        sampled = self._sampler.sample(logits, [c.seq.slot for c in step.draws])
        draws = [Draw(*d) for d in zip(step.draws, sampled.ids, sampled.logprobs, strict=True)]
        for row, error in sampled.errors.items():
            draws[row] = replace(draws[row], error=error)
        return draws

    def times(self) -> list[StepTimes]:
        """Times of the runs since the last call, where somebody wants them (timed.py)."""
        return []

    def _score(self, hidden: Tensor, part: ScoreRows) -> Scores:
        top = part.chunk.seq.submit.params.logprobs or 0
        found: list[TokenLogprob] = []
        for i in range(0, len(part.targets), SCORE_ROWS):
            logits = self._model.head(hidden[i : i + SCORE_ROWS])
            targets = part.targets[i : i + SCORE_ROWS]
            found += self._sampler.score(logits, targets, [top] * len(targets))
        return Scores(part.chunk, tuple(found))
