"""From logits to one token a row: prepared here, done by the backend, all rows together.

Order of operations: logit_bias, penalties (repetition, presence, frequency), temperature, top_k,
top_p, min_p, draw. Temperature 0 is the argmax after bias and penalties, ties to the lower id. A
row's token depends on its own logits, parameters and history only, bit for bit.

A *slot* is the engine's number for a running sequence, 0 .. max_seqs-1. This module does not know
when a sequence ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.engine.penalties import Penalties
from rbee_worker.engine.random import uniforms
from rbee_worker.engine.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import Cuts, Sampling
from rbee_worker.types import SamplingParams, TokenLogprob

_AHEAD = 64  # uniform numbers computed at once for a slot


class Sampled(Struct, frozen=True):
    """One step's tokens. A row that could not be sampled has id -1 and a reason in `errors`."""

    ids: list[int]
    logprobs: list[TokenLogprob | None]
    errors: dict[int, str]  # row -> why


class Sampler:
    """Parameters and penalty state by slot; `sample` draws and counts."""

    def __init__(
        self,
        vocab_size: int,
        max_seqs: int,
        device: torch.device | str = "cpu",
        sampling: Sampling | None = None,
    ) -> None:
        """sampling: the backend's own; None: torch's, on `device`."""
        self.vocab_size = vocab_size
        self._sampling = TorchSampling(torch.device(device)) if sampling is None else sampling
        self._penalties = Penalties(vocab_size, self._sampling.entries(max_seqs))
        self._plain: set[int] = set()  # slots: greedy, nothing applied, no logprobs
        self._scored: set[int] = set()  # slots that want logprobs
        self._greedy = np.ones(max_seqs, dtype=bool)
        self._scale = np.ones(max_seqs)  # 1 / temperature, finite
        self._top_k = np.zeros(max_seqs, dtype=np.int64)
        self._top_p = np.ones(max_seqs)
        self._min_p = np.zeros(max_seqs)
        self._logprobs = np.full(max_seqs, -1, dtype=np.int64)  # -1 = none
        self._seed = np.zeros(max_seqs, dtype=np.uint64)
        self._choice = np.zeros(max_seqs, dtype=np.int64)
        self._length = [0] * max_seqs  # tokens of prompt and output
        self._ahead = np.zeros((max_seqs, _AHEAD))  # uniforms of tokens block * 64 ...
        self._block = np.full(max_seqs, -1, dtype=np.int64)

    def add(
        self,
        slot: int,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int] = (),
        *,
        eos_ids: Iterable[int] = (),
        exempt_ids: Iterable[int] = (),
        choice: int = 0,
    ) -> None:
        """A sequence starts in `slot`, or goes on after `output_ids` as if it had never stopped.

        EOS ids and exempt ids are never touched by the repetition penalty; EOS ids (unless
        ignore_eos) and stop ids cannot be drawn before min_tokens tokens are out.
        """
        self.remove(slot)
        applies = self._penalties.add(
            slot, params, prompt_ids, output_ids, eos_ids=eos_ids, exempt_ids=exempt_ids
        )
        self._greedy[slot] = params.temperature == 0
        self._scale[slot] = 1 / max(params.temperature, 1e-300)
        self._top_k[slot] = max(params.top_k, 0)
        self._top_p[slot] = params.top_p
        self._min_p[slot] = params.min_p
        self._logprobs[slot] = -1 if params.logprobs is None else params.logprobs
        if params.logprobs is not None:
            self._scored.add(slot)
        elif params.temperature == 0 and not applies:
            self._plain.add(slot)
        self._seed[slot] = params.seed
        self._choice[slot] = choice
        self._length[slot] = len(prompt_ids) + len(output_ids)
        self._block[slot] = -1

    def remove(self, slot: int) -> None:
        """The sequence in `slot` ended or was preempted. Unknown slots are fine."""
        self._penalties.remove(slot)
        self._plain.discard(slot)
        self._scored.discard(slot)

    def sample(self, logits: Tensor, slots: Sequence[int]) -> Sampled:
        """Draw the next token of slots[i] from logits[i]; logits [S, V] f32, unchanged on return.

        The drawn tokens are counted as generated. A row with NaN, or with nothing above -inf,
        fails alone: see `Sampled.errors`.
        """
        if self._plain.issuperset(slots):
            ids = self._sampling.greedy(logits)
        else:
            undo = self._penalties.apply(logits, slots)
            ids = self._choose(logits, slots)
            if undo is not None:
                undo(logits)
        assert len(ids) == len(slots)
        errors: dict[int, str] = {}
        if min(ids, default=0) >= 0:
            self._push(slots, ids)
        else:
            errors = _explain(logits, ids)
            good = [row for row, token in enumerate(ids) if token >= 0]
            self._push([slots[row] for row in good], [ids[row] for row in good])
        return Sampled(ids, self._score(logits, slots, ids), errors)

    def _push(self, slots: Sequence[int], ids: Sequence[int]) -> None:
        """Count the drawn tokens."""
        for slot in slots:
            self._length[slot] += 1
        self._penalties.push(slots, ids)

    def score(self, logits: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
        """Log-probabilities of given tokens: see `Sampling.score`."""
        return self._sampling.score(logits, ids, tops)

    def _choose(self, logits: Tensor, slots: Sequence[int]) -> list[int]:
        """Ids [S]; -1 for rows without an answer. `logits` have bias and penalties applied."""
        assert logits.shape == (len(slots), self.vocab_size)
        where = np.asarray(slots, dtype=np.int64)
        greedy = self._greedy[where]
        if greedy.all():
            return self._sampling.greedy(logits)
        return self._sampling.choose(logits, self._cuts(where), greedy)

    def _cuts(self, slots: NDArray[np.int64]) -> Cuts:
        index = np.array([self._length[slot] for slot in slots.tolist()], np.int64)
        block = index // _AHEAD
        late = self._block[slots] != block
        stale = slots[late]
        if stale.size:
            self._block[stale] = block[late]
            indices = self._block[stale, None] * _AHEAD + np.arange(_AHEAD)
            self._ahead[stale] = uniforms(
                self._seed[stale, None], self._choice[stale, None], indices
            )
        u = self._ahead[slots, index - block * _AHEAD]
        return Cuts(
            self._scale[slots],
            self._top_k[slots],
            self._top_p[slots],
            self._min_p[slots],
            u,
        )

    def _score(
        self, logits: Tensor, slots: Sequence[int], ids: list[int]
    ) -> list[TokenLogprob | None]:
        result: list[TokenLogprob | None] = [None] * len(ids)
        if self._scored.isdisjoint(slots):
            return result
        tops = self._logprobs[list(slots)]
        rows = [row for row in np.flatnonzero(tops >= 0).tolist() if ids[row] >= 0]
        if rows:
            chosen, counts = [ids[row] for row in rows], tops[rows].tolist()
            scores = self._sampling.score(logits, chosen, counts, rows)
            for row, one in zip(rows, scores, strict=True):
                result[row] = one
        return result


def _explain(logits: Tensor, ids: list[int]) -> dict[int, str]:
    """Why rows have id -1, in words for the request's owner."""
    errors = {}
    for row, token in enumerate(ids):
        if token < 0:
            nan = int(logits[row].isnan().sum())
            errors[row] = (
                f"the model's output is not a number for {nan} of {logits.shape[1]} tokens"
                if nan
                else "no token can be drawn: every logit is -inf or banned until min_tokens"
            )
    return errors
