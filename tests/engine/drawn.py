"""A sampler whose every draw is collected at once, for sequences whose lengths it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rbee_worker.engine.sampler import Sampled, Sampler
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import Sampling
from rbee_worker.types import SamplingParams


class DrawnSampler(Sampler):
    """sampling: torch's if None."""

    def __init__(self, vocab_size: int, max_seqs: int, sampling: Sampling | None = None) -> None:
        super().__init__(vocab_size, max_seqs, sampling or TorchSampling(torch.device("cpu")))
        self._next = [0] * max_seqs  # index of each slot's next draw

    def add(
        self,
        slot: int,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int] = (),
        **options: Any,
    ) -> bool:
        self._next[slot] = len(prompt_ids) + len(output_ids)
        return super().add(slot, params, prompt_ids, output_ids, **options)

    def draw(self, logits: Any, slots: Sequence[int]) -> Sampled:
        """The next token of each slot."""
        prepared = self.prepare(slots, [self._next[slot] for slot in slots])
        sampled = self.collect(self.sample(logits, prepared))
        for slot, token in zip(slots, sampled.ids, strict=True):
            self._next[slot] += token >= 0
        return sampled
