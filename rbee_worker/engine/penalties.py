"""What changes single logits before temperature: bias, penalties, ids that may not come yet.

A row touches few of its tokens (those in its window, its output, its bias), so the state of a
slot is a list of *entries*, one a touched token, on the device: the token's id, its bias, whether
it is banned until min_tokens, how often it stands in the repetition window and how often it was
generated. Each step gathers the logits of all entries, changes them and scatters them back.

For a token with logit z, in this order (all in float32):
    z + logit_bias
    z / repetition_penalty if z > 0 else z * repetition_penalty   if it stands in the window
    z - presence_penalty                                          if it was generated
    z - frequency_penalty * times generated
    -inf                                                          if banned, before min_tokens
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rbee_worker.types import SamplingParams

BIAS, BANNED, WINDOW, OUTPUT = range(4)  # columns of an entry
REPETITION, PRESENCE, FREQUENCY = range(3)  # columns of a slot's factors
_FIRST_CAPACITY = 256  # entries a slot


class _Slot:
    """Host side of a slot: where each token's entry is and what the window holds."""

    def __init__(self, params: SamplingParams, exempt: frozenset[int]) -> None:
        self.place: dict[int, int] = {}  # token id -> entry
        self.exempt = exempt
        self.repetition = params.repetition_penalty != 1.0
        self.output = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self.span = params.repeat_last_n if params.repeat_last_n > 0 else None
        self.window: deque[int] = deque()  # the last `span` ids, exempt ones too; unused if None
        self.generated = 0
        self.bias = bool(params.logit_bias)
        self.lasting = self.bias or self.repetition or self.output
        self.min_tokens = params.min_tokens

    def entry(self, token: int) -> int:
        return self.place.setdefault(token, len(self.place))

    def push(self, token: int) -> list[tuple[int, int, int]]:
        """The counts that one generated token changes: (entry, column, difference)."""
        changes = []
        self.generated += 1
        if self.output:
            changes.append((self.entry(token), OUTPUT, 1))
        if self.repetition:
            if token not in self.exempt:
                changes.append((self.entry(token), WINDOW, 1))
            if self.span is not None:
                self.window.append(token)
                old = self.window.popleft() if len(self.window) > self.span else None
                if old is not None and old not in self.exempt:
                    changes.append((self.entry(old), WINDOW, -1))
        return changes


class Undo(NamedTuple):
    """The logits that `apply` replaced."""

    rows: Tensor  # [A, 1]
    ids: Tensor  # [A, n]
    values: Tensor  # [A, n]

    def __call__(self, logits: Tensor) -> None:
        """Put them back, bit for bit."""
        logits[self.rows, self.ids] = self.values


class Penalties:
    """Entries of every slot that needs any; a slot without costs nothing."""

    def __init__(self, vocab_size: int, max_seqs: int, device: torch.device) -> None:
        self._vocab = vocab_size
        self._max_seqs = max_seqs
        self._device = device
        self._slots: dict[int, _Slot] = {}
        self._reserve(0)

    def _reserve(self, capacity: int) -> None:
        """Room for `capacity` entries a slot; an unused entry is token 0, counts 0."""
        shape = (self._max_seqs, capacity)
        self._capacity = capacity
        self._ids = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._entries = torch.zeros(*shape, 4, dtype=torch.float32, device=self._device)
        if capacity == 0:
            self._factors = torch.zeros(self._max_seqs, 3, device=self._device)

    def _grow(self, capacity: int) -> None:
        if capacity <= self._capacity:
            return
        old, ids, entries = self._capacity, self._ids, self._entries
        self._reserve(max(_FIRST_CAPACITY, 1 << (capacity - 1).bit_length()))
        self._ids[:, :old] = ids
        self._entries[:, :old] = entries

    def add(
        self,
        slot: int,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        *,
        eos_ids: Iterable[int],
        exempt_ids: Iterable[int],
    ) -> bool:
        """Begin a sequence, or resume one: the same state as if generated step by step.

        Returns whether the slot has anything to apply.
        """
        eos = frozenset(eos_ids)
        state = _Slot(params, eos | frozenset(exempt_ids))
        ends = set(params.stop_token_ids) | (set() if params.ignore_eos else eos)
        banned = ends if params.min_tokens > len(output_ids) else set()
        if not (state.lasting or banned):
            return False
        state.generated = len(output_ids)
        tokens = [*prompt_ids, *output_ids] if state.repetition else []
        if state.span is not None:
            tokens = tokens[-state.span :]
            state.window.extend(tokens)
        columns: dict[int, dict[int, float]] = {
            BIAS: dict(params.logit_bias),
            BANNED: dict.fromkeys(banned, 1.0),
            WINDOW: {t: n for t, n in Counter(tokens).items() if t not in state.exempt},
            OUTPUT: dict(Counter(output_ids)) if state.output else {},
        }
        for tokens_of in columns.values():
            for token in tokens_of:
                state.entry(token)
        values = [[columns[c].get(token, 0.0) for c in range(4)] for token in state.place]
        self._write(slot, list(state.place), values, params)
        self._slots[slot] = state
        return True

    def _write(
        self, slot: int, ids: list[int], values: list[list[float]], params: SamplingParams
    ) -> None:
        assert all(0 <= token < self._vocab for token in ids)
        self._grow(len(ids))
        self._ids[slot] = 0
        self._entries[slot] = 0.0
        if ids:
            self._ids[slot, : len(ids)] = torch.tensor(ids, device=self._device)
            self._entries[slot, : len(ids)] = torch.tensor(values, device=self._device)
        factors = (
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
        self._factors[slot] = torch.tensor(factors, device=self._device)

    def remove(self, slot: int) -> None:
        """Forget a slot; the last one gives the memory back."""
        if self._slots.pop(slot, None) is not None and not self._slots:
            self._reserve(0)

    def apply(self, logits: Tensor, slots: Sequence[int]) -> Undo | None:
        """Change `logits` [S, V] in place, row i by slots[i]; what undoes it, None if nothing."""
        rows = [row for row, slot in enumerate(slots) if slot in self._slots]
        states = [self._slots[slots[row]] for row in rows]
        used = [len(state.place) for state in states]
        if not rows or not max(used):
            return None
        index = torch.tensor([rows, [slots[row] for row in rows], used], device=self._device)
        where, slot, count = index[:, :, None]  # each [A, 1]
        place = torch.arange(max(used), device=self._device)
        if min(used) < max(used):
            # Past its last entry a row repeats that one: equal writes to one place do no harm.
            place = place.minimum((count - 1).clamp(min=0))
        ids = self._ids[slot, place]  # [A, n]
        bias, banned, window, output = self._entries[slot, place].unbind(dim=2)
        factor = self._factors[slot[:, 0]].T[:, :, None]  # [3, A, 1]
        before = logits[where, ids]
        z = before
        if any(state.bias for state in states):
            z = torch.where(bias != 0, z + bias, z)
        if any(state.repetition for state in states):
            scaled = torch.where(z > 0, z / factor[REPETITION], z * factor[REPETITION])
            z = torch.where(window > 0, scaled, z)
        if any(state.output for state in states):
            counted = z - factor[PRESENCE] - output * factor[FREQUENCY]
            z = torch.where(output > 0, counted, z)
        early = [state.generated < state.min_tokens for state in states]
        if any(early):
            z = z.masked_fill(
                (banned > 0) & torch.tensor(early, device=self._device)[:, None], -torch.inf
            )
        logits[where, ids] = z
        return Undo(where, ids, before)

    def push(self, slots: Sequence[int], ids: Sequence[int]) -> None:
        """Count one generated token of each slot; the id that leaves a window is uncounted."""
        at: list[tuple[int, int, int, int]] = []
        token: list[tuple[int, int, int]] = []
        for slot, new in zip(slots, ids, strict=True):
            state = self._slots.get(slot)
            if state is None:
                continue
            known = len(state.place)
            at += [(slot, *change) for change in state.push(new)]
            if len(state.place) > known:
                token.append((slot, known, new))
            if not state.lasting and state.generated >= state.min_tokens:
                self.remove(slot)  # only ids were banned, and no longer
        if token:
            self._grow(max(place for _, place, _ in token) + 1)
            slot_, place_, id_ = torch.tensor(token, device=self._device).unbind(dim=1)
            self._ids[slot_, place_] = id_
        if at:
            slot_, place_, column, change = torch.tensor(at, device=self._device).unbind(dim=1)
            self._entries.index_put_(
                (slot_, place_, column), change.to(torch.float32), accumulate=True
            )

    def counts(self, slot: int) -> dict[int, tuple[int, int]]:
        """Token id -> (times in the window, times generated), where either is not 0."""
        state = self._slots.get(slot)
        if state is None:
            return {}
        rows = self._entries[slot, : len(state.place)].tolist()
        counts = {t: (int(rows[i][WINDOW]), int(rows[i][OUTPUT])) for t, i in state.place.items()}
        return {token: pair for token, pair in counts.items() if any(pair)}
