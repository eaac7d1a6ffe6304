"""Draws one token for each row of logits: prepared here, computed by the backend for all rows.

Order of operations: logit_bias, penalties (repetition, presence, frequency), the tokens that a
constraint allows, temperature, top_k, top_p, min_p, draw. Temperature 0 is the argmax after bias,
penalties and constraint, ties to the lower id. A row's token depends on its own logits, parameters
and history only, bit for bit.

A *slot* is the engine's number for a running sequence, 0 .. max_seqs-1. The *index* of a draw is
the position that its token will have in the sequence. It determines the uniform number, together
with the sequence's seed, whatever happened to the sequence before. This module does not know when a
sequence ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from rbee_worker.engine.penalties import Change, Penalties
from rbee_worker.engine.philox import uniforms
from rbee_worker.ops.batch import Array
from rbee_worker.ops.sampling import Bits, DrawParams, Ids, Sampling
from rbee_worker.types import SamplingParams, TokenLogprob

NONE, REJECTED = -1, -2  # instead of an id: none can be drawn; the draw does not count
NO_MASKS: Mapping[int, Bits] = {}
_BLOCK = 64  # uniform numbers computed at once for a slot


class Prepared(Struct, frozen=True):
    """The parameters of a step's draws, as numbers on the host.

    params: None if every row is greedy. change: the edits by bias and penalties, and their rows.
    scored: rows whose log-probabilities are wanted, each with the number of most likely tokens.
    expected, masks: see `Sampler.prepare`.
    """

    count: int
    params: list[DrawParams | None] | None = None
    change: Change | None = None
    scored: dict[int, int] = {}
    expected: Sequence[int] = ()
    masks: Mapping[int, Bits] = {}


class Drawing(Struct, frozen=True):
    """Draws that were launched; their ids may not be known yet."""

    prepared: Prepared
    ids: Ids
    logits: Array


class Sampled(Struct, frozen=True):
    """One step's tokens. A row that could not be sampled has id NONE and a reason in `errors`; one
    that follows from a token that was not drawn has id REJECTED."""

    ids: list[int]
    logprobs: list[TokenLogprob | None]
    errors: dict[int, str]  # row -> why


class Sampler:
    """Parameters and penalty state by slot. A draw is `prepare`, `sample`, `collect`."""

    def __init__(self, vocab_size: int, max_seqs: int, sampling: Sampling) -> None:
        self.vocab_size = vocab_size
        self._sampling = sampling
        self._penalties = Penalties(vocab_size, sampling.bias_table(max_seqs))
        self._plain: set[int] = set()  # slots: greedy, nothing applied, no logprobs
        self._scored: set[int] = set()  # slots that want logprobs
        # Plain lists indexed by slot: right after a step, one numpy call costs more than a Python
        # loop over a few rows.
        self._kept: list[tuple[float, int, float, float] | None] = [None] * max_seqs
        self._logprobs: list[int | None] = [None] * max_seqs
        self._stream = [(0, 0)] * max_seqs  # seed and choice
        self._uniforms: list[list[float]] = [[]] * max_seqs  # for indices block * 64 ...
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
    ) -> bool:
        """A sequence starts in `slot`, or continues after `output_ids` as if it had never stopped.

        EOS ids and exempt ids are never changed by the repetition penalty; EOS ids (unless
        ignore_eos) and stop ids cannot be drawn in the first min_tokens tokens.
        Returns whether its draws are counted: each one depends on those before it.
        """
        self.remove(slot)
        self._kept[slot] = None  # greedy
        if params.temperature != 0:
            scale = 1 / max(params.temperature, 1e-300)  # finite
            self._kept[slot] = scale, max(params.top_k, 0), params.top_p, params.min_p
        self._logprobs[slot] = params.logprobs
        self._stream[slot] = params.seed, choice
        self._block[slot] = -1
        applies = self._penalties.add(
            slot, params, prompt_ids, output_ids, eos_ids=eos_ids, exempt_ids=exempt_ids
        )
        if params.logprobs is not None:
            self._scored.add(slot)
        elif params.temperature == 0 and not applies:
            self._plain.add(slot)
        return self._penalties.counts_draws(slot)

    def waits(self, slot: int) -> bool:
        """Whether each draw of a slot must be collected before the next one is prepared."""
        return self._penalties.waits(slot)

    def remove(self, slot: int) -> None:
        """The sequence in `slot` ended or was preempted. An unused slot has no effect."""
        self._penalties.remove(slot)
        self._plain.discard(slot)
        self._scored.discard(slot)

    def prepare(
        self,
        slots: Sequence[int],
        indices: Sequence[int],
        expected: Sequence[int] = (),
        masks: Mapping[int, Bits] = NO_MASKS,
    ) -> Prepared:
        """The parameters of some rows' draws: row i draws token indices[i] of slots[i]'s sequence.

        expected: the token that row i must draw, in a draw that counts itself, for the draw of row
        i + 1 to count, which is computed from that token; NONE if row i + 1 belongs to another
        sequence. Empty: all draws count. masks: by row, the tokens that it may draw.

        Changes nothing. Where a slot `waits`, its earlier draws must be collected.
        """
        if self._plain.issuperset(slots):
            return Prepared(len(slots), expected=expected, masks=masks)
        params = [self._draw_params(s, i) for s, i in zip(slots, indices, strict=True)]
        scored = {}
        if not self._scored.isdisjoint(slots):
            tops = enumerate(self._logprobs[slot] for slot in slots)
            scored = {row: top for row, top in tops if top is not None}
        return Prepared(
            len(slots),
            None if params.count(None) == len(params) else params,
            self._penalties.prepare(slots, indices),
            scored,
            expected,
            masks,
        )

    def sample(self, logits: Array, prepared: Prepared) -> Drawing:
        """Draw from logits [P, V] f32, which are unchanged on return; rows after the prepared ones
        are padding. Does not wait for the ids; `collect` needs the logits."""
        undo = None if prepared.change is None else self._penalties.apply(logits, prepared.change)
        if prepared.params is None and not prepared.masks:
            ids = self._sampling.greedy(logits)
        else:
            rows, vocab = logits.shape
            assert vocab == self.vocab_size
            params = prepared.params or []
            padding = [None] * (rows - len(params))
            ids = self._sampling.choose(logits, [*params, *padding], prepared.masks)
        if undo is not None:
            undo(logits)
        if prepared.change is not None:
            self._penalties.push(prepared.change, ids)
        return Drawing(prepared, ids, logits)

    def guess(self, logits: Array, prepared: Prepared) -> list[int]:
        """What would be drawn from another model's logits [P, V]; NONE where nothing can be.
        Nothing is counted."""
        return self.sample(logits, prepared).ids.host()[: prepared.count]

    def collect(self, drawing: Drawing) -> Sampled:
        """Wait for the ids, and count them if the slot still has the sequence of `prepare`.

        A row with nan, or with nothing above -inf, fails alone: see `Sampled.errors`.
        """
        prepared, logits = drawing.prepared, drawing.logits
        ids = drawing.ids.host()[: prepared.count]
        if prepared.expected:
            ids = _counting(ids, prepared.expected)
        if prepared.change is not None:
            self._penalties.count(prepared.change, ids)
        errors = _explain(logits, ids) if NONE in ids else {}
        logprobs: list[TokenLogprob | None] = [None] * len(ids)
        rows = [row for row in prepared.scored if ids[row] >= 0]
        if rows:
            chosen, tops = [ids[row] for row in rows], [prepared.scored[row] for row in rows]
            found = self._sampling.score(logits, chosen, tops, rows)
            for row, one in zip(rows, found, strict=True):
                logprobs[row] = one
        return Sampled(ids, logprobs, errors)

    def score(self, logits: Array, ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
        """Log-probabilities of given tokens: see `Sampling.score`."""
        return self._sampling.score(logits, ids, tops)

    def _draw_params(self, slot: int, index: int) -> DrawParams | None:
        """The parameters of a slot's draw of token `index`; None: greedy."""
        kept = self._kept[slot]
        if kept is None:
            return None
        block, at = divmod(index, _BLOCK)
        if self._block[slot] != block:
            indices = block * _BLOCK + np.arange(_BLOCK)
            self._uniforms[slot] = uniforms(*self._stream[slot], indices).tolist()
            self._block[slot] = block
        return DrawParams(*kept, self._uniforms[slot][at])


def _counting(ids: Sequence[int], expected: Sequence[int]) -> list[int]:
    """The ids, REJECTED in rows that do not count: see `Sampler.prepare`."""
    found: list[int] = []
    counts = True
    for token, wanted in zip(ids, expected, strict=True):
        found.append(token if counts else REJECTED)
        counts = wanted == NONE or (counts and token == wanted)
    return found


def _explain(logits: Array, ids: list[int]) -> dict[int, str]:
    """The reasons why rows have id NONE, as text for the request's owner."""
    errors = {}
    for row, token in enumerate(ids):
        if token == NONE:
            values = logits[row]
            nan = int((values != values).sum())  # in any backend's arrays
            errors[row] = (
                f"the model's output is not a number for {nan} of {logits.shape[1]} tokens"
                if nan
                else "no token can be drawn: every logit is -inf, banned until min_tokens, or not "
                "allowed by the constraint"
            )
    return errors
