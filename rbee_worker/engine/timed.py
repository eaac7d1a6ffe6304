"""The runner with a clock, for `--trace`: how long each step and the sampling inside it took."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from typing import Any

from torch import Tensor

from rbee_worker.engine.messages import StepTimes
from rbee_worker.engine.runner import Draw, Model, Runner, Scores
from rbee_worker.engine.sampler import Sampled, Sampler
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.state.fixed import Copy
from rbee_worker.state.tensors import StateTensors


class TimedSampler(Sampler):
    """Notes when its last sampling began and how long it took (microseconds, monotonic)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began_us = self.spent_us = 0.0

    def sample(self, logits: Tensor, slots: Seq[int]) -> Sampled:
        self.began_us = now_us()
        try:
            return super().sample(logits, slots)
        finally:
            self.spent_us = now_us() - self.began_us


class TimedRunner(Runner):
    """Tells the times of each run."""

    def __init__(
        self,
        model: Model,
        tensors: StateTensors,
        sampler: TimedSampler,
        *,
        max_seqs: int,
        device: str,
    ) -> None:
        super().__init__(model, tensors, sampler, max_seqs=max_seqs, device=device)
        self._timed = sampler
        self._times: list[StepTimes] = []

    def run(self, chunks: Seq[Chunk], copies: Seq[Copy] = ()) -> tuple[list[Draw], list[Scores]]:
        began = now_us()
        self._timed.spent_us = 0.0
        found = super().run(chunks, copies)
        prompts = [c for c in chunks if c.count > 1 or not c.draws]
        self._times.append(
            StepTimes(
                start_us=began,
                us=now_us() - began,
                sampling_start_us=self._timed.began_us,
                sampling_us=self._timed.spent_us,
                sequences=len(chunks),
                prompt_tokens=sum(c.count for c in prompts),
                prompts=len(prompts),
                drawn=len(found[0]),
            )
        )
        return found

    def times(self) -> list[StepTimes]:
        told, self._times = self._times, []
        return told


def now_us() -> float:
    """The clock of all traces."""
    return time.monotonic() * 1e6
