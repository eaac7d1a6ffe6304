"""A step's numbers on the host (`StepNumbers`), and the form in which a model sees them (`Batch`).

The tokens of all sequences in a step lie one after another. A prefill chunk is a sequence with many
rows, a decode is one with a single row, and both share a step. The scheduler's plan becomes
`StepNumbers`: a few numpy arrays, small enough to be sent to another process or device. A backend's
state memory turns them into a `Batch`, whose arrays are the backend's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any  # a backend's own array: numpy for `cpu`, a torch tensor for `reference`
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PagedPlaces:
    """Where a step's sequences read and write their keys in one paged group.

    table: int32 [B, columns]; column j has the block with positions j * block_size .. of sequence
    b, or 0 if there is none (block 0 is a sink, never a sequence's). slots: int64 [N], the flat
    index (block * block_size + offset) where row n's key and value go. lens: int64 [B], the number
    of sequence b's keys in this group if they are not its own tokens' (`CrossKV`); None: `kv_lens`.
    """

    table: NDArray[np.int32]
    slots: Ints
    lens: Ints | None = None


@dataclass(frozen=True)
class FixedPlaces:
    """The slot of each sequence in one fixed group: slots int64 [B]; 0 is a sink."""

    slots: Ints


Places = PagedPlaces | FixedPlaces


@dataclass(frozen=True)
class StepNumbers:
    """N rows (tokens) of B sequences, of which S are sampled, as numbers on the host.

    The fields are those of `Batch`; places: one per state group. segments, adapters: int64 [N], or
    None if all are 0. features: int64 [N], the row of the memory of pictures' features that a row's
    embedding is, -1 for its token's; None: no row has one. until: int64 [N], the last position that
    a row sees, in a model whose rows of a picture see each other; None: each row sees up to itself.
    takes: int64 [N]; a row's token is this draw of the previous step, or `tokens` has it if this is
    -1 (None: `tokens` has all). If that draw has no result (-1, or the step failed), any token will
    do: the row's result is dropped.

    An engine may pass the same object again with other numbers in its arrays, never with other
    arrays, so whoever stages it may cache what depends on the arrays only.
    """

    tokens: Ints
    positions: Ints
    seq_starts: Ints
    kv_lens: Ints
    rope_lens: Ints
    sample_rows: Ints
    places: tuple[Places, ...]
    seq_starts_host: Sequence[int]
    kv_lens_host: Sequence[int]
    takes: Ints | None = None
    segments: Ints | None = None
    adapters: Ints | None = None
    features: Ints | None = None
    until: Ints | None = None


@dataclass(frozen=True)
class PagedState:
    """Keys and values of one state group, and where this step's sequences read and write theirs.

    k: [layers, blocks, block_size, heads, k_dim]; v: [layers, blocks, block_size, heads, v_dim];
    table, slots and lens: see `PagedPlaces`; lens_host: the same numbers on the host.
    """

    k: Array
    v: Array
    table: Array
    slots: Array
    lens: Array | None = None
    lens_host: Ints | None = None


@dataclass(frozen=True)
class FixedState:
    """Recurrent state of one group: tensors by name [layers, slots, ...], slots int64 [B]."""

    tensors: Mapping[str, Array]
    slots: Array


State = PagedState | FixedState


@dataclass(frozen=True)
class PagedMemory:
    """Keys and values of one paged group; see `PagedState`."""

    k: Array
    v: Array


@dataclass(frozen=True)
class FixedMemory:
    """Tensors of one fixed group by name, [layers, slots, ...]."""

    tensors: Mapping[str, Array] = field(default_factory=dict)


Memory = PagedMemory | FixedMemory


@dataclass
class Carry:
    """What the first block of a model hands to all others, while one batch is computed."""

    value: Array | None = None


@dataclass(frozen=True)
class Batch:
    """All that a model sees: N rows of B sequences, of which S are sampled.

    tokens, positions: int64 [N]; seq_starts: int64 [B+1], sequence b has the rows seq_starts[b] ..
    seq_starts[b+1]; kv_lens: int64 [B], b's keys once this step's are written; rope_lens: int64
    [B], the length for length-dependent rope scaling (never the chunk's: engine/rope_length.py);
    sample_rows: int64 [S], the rows whose logits are needed. `seq_starts_host` and `kv_lens_host`
    are the same numbers on the host, for launch shapes. features: (int64 [N], [M, dim]): a row's
    embedding is replaced by this row of the second, -1: by none; None: there are no pictures.
    until: int64 [N], the last position that a row sees; None: its own. segments: int64 [N], which
    of an encoder's two texts each row belongs to; None: all to the first. adapters: int64 [N], the
    slot of each row's adapter, 0 for none (`ops.adapted`); None: no row has one.

    A batch may come again with other numbers in its arrays and lists, never with other arrays, so
    code that has checked the arrays once may recognize the batch by its identity.
    """

    tokens: Array
    positions: Array
    seq_starts: Array
    kv_lens: Array
    rope_lens: Array
    sample_rows: Array
    state: tuple[State, ...]
    seq_starts_host: Sequence[int]
    kv_lens_host: Sequence[int]
    segments: Array | None = None
    adapters: Array | None = None
    features: tuple[Array, Array] | None = None
    until: Array | None = None

    @classmethod
    def make(
        cls,
        numbers: StepNumbers,
        memory: Sequence[Memory],
        put: Callable[[NDArray[Any]], Array] = lambda numbers: numbers,
        features: Array | None = None,
    ) -> Batch:
        """The batch of these numbers. memory: one per state group; put: turns a host array into the
        backend's own; features: the memory of pictures' features."""
        state: list[State] = []
        for held, places in zip(memory, numbers.places, strict=True):
            slots = put(places.slots)
            if isinstance(places, PagedPlaces):
                assert isinstance(held, PagedMemory)
                lens = None if places.lens is None else put(places.lens)
                table = put(places.table)
                state.append(PagedState(held.k, held.v, table, slots, lens, places.lens))
            else:
                assert isinstance(held, FixedMemory)
                state.append(FixedState(held.tensors, slots))
        return cls(
            tokens=put(numbers.tokens),
            positions=put(numbers.positions),
            seq_starts=put(numbers.seq_starts),
            kv_lens=put(numbers.kv_lens),
            rope_lens=put(numbers.rope_lens),
            sample_rows=put(numbers.sample_rows),
            state=tuple(state),
            seq_starts_host=numbers.seq_starts_host,
            kv_lens_host=numbers.kv_lens_host,
            segments=None if numbers.segments is None else put(numbers.segments),
            adapters=None if numbers.adapters is None else put(numbers.adapters),
            features=None if numbers.features is None else (put(numbers.features), features),
            until=None if numbers.until is None else put(numbers.until),
        )
