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
from torch import Tensor

from rbee_worker.engine.penalties import Penalties
from rbee_worker.engine.philox import uniforms
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import DrawParams, Sampling
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
        self._penalties = Penalties(vocab_size, self._sampling.bias_table(max_seqs))
        self._plain: set[int] = set()  # slots: greedy, nothing applied, no logprobs
        self._scored: set[int] = set()  # slots that want logprobs
        # by slot, in lists: numpy's first operation after a step costs more than a few rows' Python
        self._kept: list[tuple[float, int, float, float] | None] = [None] * max_seqs
        self._logprobs: list[int | None] = [None] * max_seqs
        self._stream = [(0, 0)] * max_seqs  # seed and choice
        self._length = [0] * max_seqs  # tokens of prompt and output
        self._ahead: list[list[float]] = [[]] * max_seqs  # uniforms of tokens block * 64 ...
        self._block = [-1] * max_seqs

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
        self._kept[slot] = None  # greedy
        if params.temperature != 0:
            scale = 1 / max(params.temperature, 1e-300)  # finite
            self._kept[slot] = scale, max(params.top_k, 0), params.top_p, params.min_p
        self._logprobs[slot] = params.logprobs
        if params.logprobs is not None:
            self._scored.add(slot)
        elif params.temperature == 0 and not applies:
            self._plain.add(slot)
        self._stream[slot] = params.seed, choice
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
            ids = self._sampling.greedy(logits).host()
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
        params = [self._draw_params(slot) for slot in slots]
        if params.count(None) == len(params):
            return self._sampling.greedy(logits).host()
        return self._sampling.choose(logits, params).host()

    def _draw_params(self, slot: int) -> DrawParams | None:
        """The parameters of a slot's next draw; None: greedy."""
        kept = self._kept[slot]
        if kept is None:
            return None
        block, at = divmod(self._length[slot], _AHEAD)
        if self._block[slot] != block:
            indices = block * _AHEAD + np.arange(_AHEAD)
            self._ahead[slot] = uniforms(*self._stream[slot], indices).tolist()
            self._block[slot] = block
        return DrawParams(*kept, self._ahead[slot][at])

    def _score(
        self, logits: Tensor, slots: Sequence[int], ids: list[int]
    ) -> list[TokenLogprob | None]:
        result: list[TokenLogprob | None] = [None] * len(ids)
        if self._scored.isdisjoint(slots):
            return result
        tops = [self._logprobs[slot] for slot in slots]
        rows = [row for row, top in enumerate(tops) if top is not None and ids[row] >= 0]
        if rows:
            chosen, counts = [ids[row] for row in rows], [tops[row] or 0 for row in rows]
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
