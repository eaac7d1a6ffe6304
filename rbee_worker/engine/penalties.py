"""Changes to single logits before temperature: bias, penalties, ids that are still banned.

A row changes few of its tokens (those in its window, its output, its bias), so the state of a slot
is a list of *entries*, one per changed token, stored on the device that has the logits
(`ops.sampling.BiasTable`): the token's id, its bias, whether it is banned until min_tokens, how
often it is in the repetition window and how often it was generated. Each step changes the logits of
all entries. A drawn token is counted by the host when it is known, or on the device as soon as it
is drawn (`CountingTable`); the host then repeats the changes, to know how many entries there are.

For a token with logit z, in this order (all in float32):
    z + logit_bias
    z / repetition_penalty if z > 0 else z * repetition_penalty   if it is in the window
    z - presence_penalty                                          if it was generated
    z - frequency_penalty * times generated
    -inf                                                          if banned, before min_tokens
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from rbee_worker.ops.batch import Array
from rbee_worker.ops.sampling import (
    BANNED,
    BIAS,
    OUTPUT,
    WINDOW,
    BiasTable,
    CountingTable,
    Edits,
    Ids,
)
from rbee_worker.types import SamplingParams


class _Slot:
    """A slot on the host: where each token's entry is, and the ids in the window."""

    def __init__(self, params: SamplingParams, prompt: int, exempt: frozenset[int]) -> None:
        self.place: dict[int, int] = {}  # token id -> entry
        self.exempt = exempt
        self.repetition = params.repetition_penalty != 1.0
        self.output = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self.span = params.repeat_last_n if params.repeat_last_n > 0 else None
        self.window: deque[int] = deque()  # the last `span` ids, exempt ones too; unused if None
        self.bias = bool(params.logit_bias)
        self.lasting = self.bias or self.repetition or self.output
        self.bans_end = prompt + params.min_tokens  # index of the first token without bans
        self.uncollected = 0  # draws that are counted on the device, and not known here yet

    @property
    def counts(self) -> bool:
        """Whether a draw depends on which tokens were drawn before it."""
        return self.repetition or self.output

    def leaving(self) -> int:
        """The id that leaves the window when the next draw enters it, or -1."""
        if self.span is None or not self.repetition:
            return -1
        at = len(self.window) + self.uncollected - self.span
        if at < 0:
            return -1
        assert at < len(self.window), "it is not known yet"
        return -1 if self.window[at] in self.exempt else self.window[at]

    def entry(self, token: int) -> int:
        return self.place.setdefault(token, len(self.place))

    def push(self, token: int) -> list[tuple[int, int, int]]:
        """The counts that one generated token changes: (entry, column, difference)."""
        changes = []
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


class Change(Struct, frozen=True):
    """The changes by one step's draws: `edits`, and the state (`_Slot`) of each edited row's slot
    when this was prepared, so that a draw is never counted for the next sequence in that slot."""

    edits: Edits
    owners: list[_Slot]
    indices: list[int]


class Penalties:
    """The slots that have entries, and for which tokens. A slot without entries costs nothing. The
    numbers are in `table`."""

    def __init__(self, vocab_size: int, table: BiasTable | CountingTable) -> None:
        self._vocab = vocab_size
        self._table = table
        self._slots: dict[int, _Slot] = {}

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
        """Start or resume a sequence: the same state as if its tokens were generated step by step.

        Returns whether the slot has anything to apply.
        """
        eos = frozenset(eos_ids)
        state = _Slot(params, len(prompt_ids), eos | frozenset(exempt_ids))
        ends = set(params.stop_token_ids) | (set() if params.ignore_eos else eos)
        banned = ends if params.min_tokens > len(output_ids) else set()
        if not (state.lasting or banned):
            return False
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
        ids = list(state.place)
        assert all(0 <= token < self._vocab for token in ids)
        values = [[columns[c].get(token, 0.0) for c in range(4)] for token in ids]
        factors = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        self._table.write(slot, ids, values, factors)
        if self._table.counted == "device":
            self._table.exempt(slot, sorted(state.exempt) if state.repetition else [])
        self._slots[slot] = state
        return True

    def remove(self, slot: int) -> None:
        """Remove a slot; removing the last one frees the memory."""
        if self._slots.pop(slot, None) is not None and not self._slots:
            self._table.clear()

    def counts_draws(self, slot: int) -> bool:
        """Whether a slot's next draw depends on which ids were drawn before it."""
        state = self._slots.get(slot)
        return state is not None and state.counts

    def waits(self, slot: int) -> bool:
        """Whether a slot's draw must be known before the next one is prepared. On the device it is
        counted anyway, but an id that leaves the window must be known here: with a window of one
        token it is the one that was just drawn."""
        state = self._slots.get(slot)
        if state is None or not state.counts:
            return False
        return self._table.counted == "host" or (state.repetition and state.span == 1)

    def prepare(self, slots: Sequence[int], indices: Sequence[int]) -> Change | None:
        """The edits to logits whose row i draws token indices[i] of the sequence in slots[i], and
        to the counts by the drawn ids; None: there are none."""
        if not self._slots:
            return None
        rows = [row for row, slot in enumerate(slots) if slot in self._slots]
        states = [self._slots[slots[row]] for row in rows]
        if not rows:
            return None
        at = [indices[row] for row in rows]
        edits = Edits(
            rows,
            [slots[row] for row in rows],
            [len(state.place) + state.uncollected for state in states],
            [index < state.bans_end for index, state in zip(at, states, strict=True)],
            any(state.bias for state in states),
            any(state.repetition for state in states),
            any(state.output for state in states),
            [state.leaving() for state in states],
        )
        return Change(edits, states, at)

    def apply(self, logits: Array, change: Change) -> Callable[[Array], None] | None:
        """Change `logits` [S, V] in place. Returns a function that restores them bit for bit, or
        None if nothing was changed."""
        return self._table.apply(logits, change.edits) if max(change.edits.used) else None

    def push(self, change: Change, ids: Ids) -> None:
        """Count what was drawn on the device, if the table does that."""
        if self._table.counted == "device":
            for state in change.owners:
                state.uncollected += state.counts
            self._table.push(change.edits, ids)

    def count(self, change: Change, ids: Sequence[int]) -> None:
        """Count the id that each row drew (unless it is negative), and uncount the id that leaves a
        window. Every change must be pushed before."""
        at: list[tuple[int, int, int, int]] = []
        token: list[tuple[int, int, int]] = []
        edits = change.edits
        for row, slot, state, index in zip(
            edits.rows, edits.slots, change.owners, change.indices, strict=True
        ):
            new = ids[row]
            if self._table.counted == "device":
                state.uncollected -= state.counts
            if new < 0 or self._slots.get(slot) is not state:
                continue
            known = len(state.place)
            at += [(slot, *one) for one in state.push(new)]
            if len(state.place) > known:
                token.append((slot, known, new))
            if not state.lasting and index + 1 >= state.bans_end:
                self.remove(slot)  # it had only bans, which are over
        if self._table.counted == "device":
            return
        if token:
            self._table.add(token)
        if at:
            self._table.count(at)

    def counts(self, slot: int) -> dict[int, tuple[int, int]]:
        """Token id -> (times in the window, times generated), if either is not 0."""
        state = self._slots.get(slot)
        if state is None:
            return {}
        rows = self._table.values(slot, len(state.place))
        counts = {t: (int(rows[i][WINDOW]), int(rows[i][OUTPUT])) for t, i in state.place.items()}
        return {token: pair for token, pair in counts.items() if any(pair)}
