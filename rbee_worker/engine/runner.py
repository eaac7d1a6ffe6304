"""`Runner`: the part of the engine that talks to a backend: model, state, sampler, prompt scores.

`launch` passes a step to the backend, `collect` waits for its results. If the backend computes
while the host continues (`overlaps`), the next step is launched before this one is collected; draws
of this one that the next step needs are then read on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from rbee_worker.engine import pooling
from rbee_worker.engine.dense import Dense
from rbee_worker.engine.lanes import Lanes
from rbee_worker.engine.messages import StepTimes
from rbee_worker.engine.results import Draw, Results, Scores, Vector
from rbee_worker.engine.sampler import NONE, REJECTED, Drawing, Sampled, Sampler
from rbee_worker.engine.scheduler import Chunk, Plan
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_numbers import Step, StepBuilder
from rbee_worker.engine.step_rows import ScoreRows
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.executable import Executable, StateMemory
from rbee_worker.ops.sampling import Bits
from rbee_worker.state.specs import Fixed
from rbee_worker.types import TokenLogprob

NO_NUMBERS = "the model's rows are not finite numbers; its weights may be damaged"
SCORE_ROWS = 64  # rows of logits in memory at once while a prompt is scored


class Launched(Struct):
    """A step that was passed to the backend, and what is known of its results so far."""

    chunks: list[Chunk]
    step: Step
    began_us: float
    sampling_start_us: float = 0.0
    sampling_us: float = 0.0
    logits: Array = None  # of the rows that draw
    masks: dict[int, Bits] = {}  # by row: the tokens that a constraint allows
    at_once: Seq[int] = ()  # the rows of `drawing`; the others are drawn one after another
    drawing: Drawing | None = None  # draws that were not waited for yet
    results: Results = msgspec.field(default_factory=Results)


class Runner:
    """Owns one sampler slot for each running sequence. All errors are raised."""

    def __init__(
        self,
        model: Executable,
        memory: StateMemory,
        sampler: Sampler,
        *,
        block_size: int,
        max_seqs: int,
        buckets: bool = False,
        overlaps: bool = False,
        adapts: bool = False,
        whole: bool = False,
        keeps: bool = False,
        lanes: Lanes | None = None,
        dense: Seq[Dense] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        """sampler: has the parameters of running sequences. buckets: pad decoding steps to a few
        sizes. overlaps: launch each step before the previous one is collected. adapts: sequences
        may use adapters. whole: see `StepBuilder`. keeps: the hidden states of all rows are wanted
        (`Results.hidden`). lanes: of a model that speaks. dense: maps of vectors, in order. clock:
        in microseconds; given if the times of steps are wanted."""
        self._model, self._memory, self.sampler = model, memory, sampler
        bucket = max_seqs if buckets and lanes is None else 0
        self._steps = StepBuilder(
            model.groups, block_size, bucket=bucket, adapts=adapts, whole=whole
        )
        self._lanes, self._dense = lanes, dense
        self._recurrent = any(isinstance(group.spec, Fixed) for group in model.groups)
        self.overlaps, self._keeps = overlaps and lanes is None, keeps
        self._slots = list(range(max_seqs - 1, -1, -1))
        self._drawn: dict[Sequence, int] | None = {} if self.overlaps else None
        self._clock = clock
        self._times: list[StepTimes] = []

    def enter(self, seq: Sequence) -> None:
        """Start or resume a sequence: its parameters and counts go to the sampler."""
        seq.slot = self._slots.pop()
        m = seq.submit
        seq.counted = self.sampler.add(
            seq.slot,
            m.params,
            m.prompt_ids,
            seq.output,
            eos_ids=[e.id for e in m.eos],
            exempt_ids=m.exempt_ids,
            choice=m.choice,
        )
        seq.waits |= self.sampler.waits(seq.slot)
        # Rows whose draws are counted are drawn one after another, when those before are known:
        # where steps overlap, the next one has been launched by then and takes its tokens from the
        # last draws.
        seq.one_row = seq.counted and self.overlaps
        if m.voice:
            voice = np.frombuffer(m.voice, "<f4").astype(np.float32)
            self._memory.keep_features(seq.slot, self._model.voice(voice))

    def leave(self, seq: Sequence) -> None:
        """Stop running a sequence: its slot becomes free."""
        if seq.slot >= 0:
            self.sampler.remove(seq.slot)
            self._slots.append(seq.slot)
            seq.slot = -1

    def launch(self, plan: Plan) -> Launched:
        """Pass a plan's chunks to the backend, which computes them, draws and scores."""
        began = self._now_us()
        step, batch = self._staged(plan)
        launched = Launched(plan.chunks, step, began)
        if step.scores or step.pooled or not step.draws or self._keeps:
            self._launch_hidden(step, batch, launched)
        else:
            self._draw(step, self._logits(step, batch), launched)
        if self._drawn is not None:
            first_rows = reversed(list(enumerate(step.draws)))
            self._drawn = {chunk.seq: row for row, chunk in first_rows}
        return launched

    def logits(self, plan: Plan) -> list[Array]:
        """Logits of every row of a plan, in parts of at most `SCORE_ROWS`; nothing is drawn, and no
        step may be running. A part is valid until the next one, so it is copied here."""
        hidden = self._model.hidden(self._staged(plan)[1])
        parts = range(0, len(hidden), SCORE_ROWS)
        return [np.asarray(self._model.head(hidden[i : i + SCORE_ROWS])).copy() for i in parts]

    def _staged(self, plan: Plan) -> tuple[Step, Batch]:
        """A plan's step as the model's input, with recurrent state copied to its place and sources
        and pictures read."""
        if plan.copies:
            self._memory.copy(plan.copies)
        if plan.sources:
            self._model.encode(self._memory.stage(self._steps.sources(plan.sources)))
        for look in plan.looks:
            self._memory.keep_features(look.slot, self._model.see(look.pixels))
        if self._recurrent and (fresh := [c.state.slot for c in plan.chunks if not c.start]):
            self._memory.clear(fresh)
        step = self._steps.build(plan.chunks, self._drawn)
        if self._lanes is not None:
            step = self._lanes.doubled(step, plan.chunks)
        return step, self._memory.stage(step.numbers)

    def _logits(self, step: Step, batch: Batch) -> Array:
        """The logits that a step's tokens are drawn from."""
        if self._lanes is None:
            return self._model.logits(batch)
        return self._model.guided(batch, [chunk.seq.submit.guidance for chunk in step.draws])

    def collect(self, launched: Launched) -> Results:
        """Wait for the results of a step."""
        self._wait(launched)
        if self._clock is not None:
            self._times.append(self._timed(launched))
        return launched.results

    def times(self) -> list[StepTimes]:
        """The times of the steps collected since the last call, if there is a clock."""
        told, self._times = self._times, []
        return told

    def _launch_hidden(self, step: Step, batch: Batch, launched: Launched) -> None:
        """A step that scores prompts, pools or keeps rows, or draws nothing. Scoring needs the
        hidden states more than once, and logits are valid only until the next ones, so the draws
        are waited for at once."""
        hidden = self._model.hidden(batch)
        self._pool(step, hidden)
        if self._keeps:
            launched.results.hidden = self._model.host(hidden).copy()
        rows, n = batch.sample_rows, len(step.draws)
        # A step that overlaps the next one has succeeded if its draw is there, even a draw of no
        # rows.
        if n or self.overlaps:
            self._draw(step, self._model.head(hidden[rows[:n]]), launched)
        for part in step.scores:
            self._wait(launched)
            found = self._score(hidden[rows[n : n + len(part.targets)]], part)
            launched.results.scores.append(found)
            n += len(part.targets)
        if step.pooled:
            self._wait(launched)  # a head's result takes the place of the logits
            launched.results.vectors += self._vectors(step)

    def _pool(self, step: Step, hidden: Array) -> None:
        """Take the rows that vectors are made of. `hidden` is valid until the next call."""
        for part in step.pooled:
            rows = self._model.host(hidden[part.first : part.end])
            pooling.add(part.chunk.seq.pooled, rows, part.position)

    def _vectors(self, step: Step) -> list[Vector]:
        """The vectors that a step completes."""
        done = [p.chunk for p in step.pooled if p.chunk.end == len(p.chunk.seq.tokens)]
        made = [(chunk, chunk.seq.submit.pool) for chunk in done]
        pooled = [
            (chunk, pool, pooling.vector(pool, chunk.seq.pooled, len(chunk.seq.tokens)))
            for chunk, pool in made
            if pool is not None
        ]
        heads = iter(self._headed([values for _, pool, values in pooled if pool.head]))
        found = []
        for chunk, pool, values in pooled:
            if pool.head:
                values = next(heads)
                values = values[list(pool.ids)] if pool.ids else values
            finite = np.isfinite(values).all()
            if finite and not pool.head:
                for dense in self._dense:
                    values = dense(values)
                finite = np.isfinite(values).all()
            error = None if finite else NO_NUMBERS
            found.append(Vector(chunk, pooling.finished(pool, values), error))
        return found

    def _headed(self, rows: Seq[pooling.F32]) -> list[pooling.F32]:
        """What the head makes of pooled rows [dim]. Several at once: its weights, a whole
        vocabulary's where a reranker answers yes or no, are then read once for all of them."""
        found: list[pooling.F32] = []
        for i in range(0, len(rows), SCORE_ROWS):
            made = self._model.head(np.stack(rows[i : i + SCORE_ROWS]))
            found += [*self._model.host(made).copy()]
        return found

    def _draw(self, step: Step, logits: Array, launched: Launched) -> None:
        """One token for each row that draws: logits [P, vocab], with those rows first, in order.

        Masks are made here, while a backend that overlaps its steps computes the logits."""
        launched.masks = _masks(step)
        launched.sampling_start_us = self._now_us()
        slots, indices, expected = [c.seq.slot for c in step.draws], step.indices, step.expected
        rows: Seq[int] = range(len(slots))
        if expected and any(c.draft and c.seq.counted for c in step.draws):
            launched.logits = logits
            rows = [r for r in rows if not _follows(step, r)]
            slots, indices = [slots[r] for r in rows], [indices[r] for r in rows]
            alone = {r for r in rows if step.draws[r].seq.counted}
            expected = [NONE if r in alone else expected[r] for r in rows]
            logits = logits[rows]
        launched.at_once = rows
        masks = launched.masks
        if masks and len(rows) < len(step.draws):
            masks = {at: masks[row] for at, row in enumerate(rows) if row in masks}
        launched.drawing = self.sampler.sample(
            logits, self.sampler.prepare(slots, indices, expected, masks)
        )

    def _wait(self, launched: Launched) -> None:
        """Wait for a step's draws."""
        if launched.drawing is None:
            return
        step = launched.step
        sampled = self.sampler.collect(launched.drawing)
        found = self._draws(step, launched.at_once, sampled)
        for row in range(len(step.draws)) if len(launched.at_once) < len(step.draws) else ():
            before = found.get(row - 1)
            if _follows(step, row) and before is not None and before.id == step.expected[row - 1]:
                found |= self._draws(step, [row], self._draw_one(launched, row))
        launched.results.draws = [found[row] for row in sorted(found)]
        launched.drawing = launched.logits = None
        launched.sampling_us = self._now_us() - launched.sampling_start_us

    def _draw_one(self, launched: Launched, row: int) -> Sampled:
        """Draw a row whose penalties depend on the draws before it, which are collected."""
        step, logits = launched.step, launched.logits
        slot, index = step.draws[row].seq.slot, step.indices[row]
        masks = {0: launched.masks[row]} if row in launched.masks else {}
        prepared = self.sampler.prepare([slot], [index], (), masks)
        return self.sampler.collect(self.sampler.sample(logits[row : row + 1], prepared))

    def _draws(self, step: Step, rows: Seq[int], sampled: Sampled) -> dict[int, Draw]:
        """What was drawn for some rows, by row; without those that do not count."""
        found = {
            row: Draw(step.draws[row], id_, logprob)
            for row, id_, logprob in zip(rows, sampled.ids, sampled.logprobs, strict=True)
            if id_ != REJECTED
        }
        for at, error in sampled.errors.items():
            matcher = step.draws[rows[at]].seq.matcher
            why = matcher.error if matcher is not None else ""
            error = f"the constraint cannot be followed: {why}" if why else error
            found[rows[at]] = replace(found[rows[at]], error=error)
        return found

    def _score(self, hidden: Array, part: ScoreRows) -> Scores:
        top = part.chunk.seq.submit.params.logprobs or 0
        found: list[TokenLogprob] = []
        for i in range(0, len(part.targets), SCORE_ROWS):
            logits = self._model.head(hidden[i : i + SCORE_ROWS])
            targets = part.targets[i : i + SCORE_ROWS]
            found += self.sampler.score(logits, targets, [top] * len(targets))
        return Scores(part.chunk, tuple(found))

    def _now_us(self) -> float:
        return 0.0 if self._clock is None else self._clock()

    def _timed(self, launched: Launched) -> StepTimes:
        """The times from a step's launch to now."""
        prompts = [c for c in launched.chunks if c.count > c.draws]
        return StepTimes(
            start_us=launched.began_us,
            us=self._now_us() - launched.began_us,
            sampling_start_us=launched.sampling_start_us,
            sampling_us=launched.sampling_us,
            sequences=len(launched.chunks),
            prompt_tokens=sum(c.count for c in prompts),
            prompts=len(prompts),
            drawn=len(launched.results.draws),
        )


def _masks(step: Step) -> dict[int, Bits]:
    """The tokens that each drawing row of a sequence with a constraint may draw, by row."""
    found: dict[int, Bits] = {}
    row, draws = 0, step.draws
    while row < len(draws):
        chunk = draws[row]
        masks = chunk.seq.masks(chunk.draft)
        if masks is not None:
            found |= enumerate(masks, row)
        row += chunk.draws
    return found


def _follows(step: Step, row: int) -> bool:
    """Is it a row of a sequence whose draws are counted, and not the first of its step?"""
    chunk = step.draws[row]
    return chunk.seq.counted and row > 0 and step.draws[row - 1] is chunk
