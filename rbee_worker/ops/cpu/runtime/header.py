"""The header of a step, filled from a `Batch` (`step.py` has its layout).

Everything that a kernel follows is checked here, because a wrong address is a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_

import numpy as np
import numpy.typing as npt

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Array, Batch, FixedState, PagedState
from rbee_worker.ops.cpu.runtime.angles import F32, Angles
from rbee_worker.ops.cpu.runtime.state import STATE_DTYPES
from rbee_worker.ops.cpu.shared import step
from rbee_worker.ops.cpu.shared.regions import Words, address
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup, row_bytes


@dataclass(frozen=True)
class Shape:
    """The shape that a model is recorded for. rows: the most tokens of a step; head_rows: logits at
    once; longest: the most tokens of a sequence."""

    rows: int
    head_rows: int
    longest: int
    block_size: int
    kv: str  # dtype of keys and values


def longest_of(batch: Batch) -> int:
    """The most keys of a sequence in any group of a batch."""
    lens = [s.lens_host for s in batch.state if isinstance(s, PagedState)]
    own = max(batch.kv_lens_host, default=0)
    return max([own, *(int(numbers.max(initial=0)) for numbers in lens if numbers is not None)])


class _Table:
    """The block table and slots of a paged state, read on the host."""

    def __init__(self, state: PagedState, shape: Shape) -> None:
        self._width, self._size, self._blocks = (
            state.table.shape[1],
            shape.block_size,
            state.k.shape[1],
        )
        # read as unsigned, a negative number is a large one
        self._unsigned: npt.NDArray[np.uint32] = state.table.view(np.uint32)
        self._bytes = memoryview(self._unsigned)
        self._slots = memoryview(state.slots).cast("B").cast("Q")
        self._lens = None if state.lens is None else memoryview(state.lens)
        self._checked = b""

    def check(self, longest: int) -> None:
        """Every block and slot must be in the cache, and there must be blocks for every key."""
        longest = longest if self._lens is None else max(self._lens)
        assert self._width * self._size >= longest
        assert max(self._slots) < self._blocks * self._size
        blocks = self._bytes.tobytes()
        if blocks != self._checked:  # most decoding steps take no new block
            assert self._unsigned.max() < self._blocks
            self._checked = blocks


class _Slots:
    """The slots of a fixed state, read on the host."""

    def __init__(self, state: FixedState) -> None:
        self._count = min(tensor.shape[1] for tensor in state.tensors.values())
        self._slots = memoryview(state.slots).cast("B").cast("Q")  # a negative one becomes large

    def check(self, longest: int) -> None:
        """Every slot must be in the memory."""
        assert max(self._slots, default=0) < self._count


class _KnownBatch:
    """What is known about a batch's arrays. Decoding steps pass the same batch object with new
    numbers, so its arrays are checked once and their contents at every step."""

    def __init__(self, batch: Batch, shape: Shape) -> None:
        self.batch = batch
        self.n = batch.seq_starts_host[-1]
        self.positions: Words = batch.positions
        self.seq_starts: Words = batch.seq_starts
        self.rope_lens: Words = batch.rope_lens
        self._places = [
            _Table(state, shape) if isinstance(state, PagedState) else _Slots(state)
            for state in batch.state
            if self.n
        ]
        self._starts = memoryview(self.seq_starts)
        self._rows = memoryview(batch.sample_rows)
        self._in_order = list(range(self.n))

    @property
    def samples_all(self) -> bool:
        """Whether every row is sampled, in order."""
        return len(self._rows) == self.n and self._rows.tolist() == self._in_order

    def check(self, longest: int) -> None:
        """Every number that kernels follow must lead into the batch's memory or the cache."""
        batch = self.batch
        assert self._starts.tolist() == list(batch.seq_starts_host)
        assert len(self._starts) == len(batch.kv_lens_host) + 1
        for places in self._places:
            places.check(longest)


class Header:
    """The words of one program's steps, and its tables of rotary positions."""

    def __init__(
        self, groups: Sequence[StateGroup], ropes: Sequence[RopeSpec], shape: Shape
    ) -> None:
        self.groups, self.shape = groups, shape
        self._angles = [Angles(spec) for spec in ropes]
        self._angles_written: list[tuple[object, object]] = [(None, None)] * len(ropes)
        self._written: dict[int, tuple[Array, ...]] = {}  # by group: arrays whose addresses it has
        self._known: _KnownBatch | None = None
        self._none: Words = np.zeros(shape.rows, np.int64)  # of numbers that are all 0
        words: Words = np.zeros(step.words(len(groups), len(ropes)), np.int64)
        self._words = memoryview(words)  # type: ignore[arg-type]
        self._address = address(words)

    def rows(self, n: int) -> int:
        """Fill the header for n rows of a program that reads no batch; returns its address."""
        self._words[step.N // 8] = n
        return self._address

    def write(self, batch: Batch) -> int:
        """Fill the header for `batch`; returns its address. The header points at the batch's
        numbers and keeps them alive until it is filled again."""
        longest = max(batch.kv_lens_host, default=0)
        most = longest_of(batch)
        assert most <= self.shape.longest, f"{most} tokens, made for {self.shape.longest}"
        known = self._known
        if known is None or known.batch is not batch:
            known = self._look_at(batch)
        known.check(longest)
        for number, angles in enumerate(self._angles):
            found = angles.at(known.positions, known.seq_starts, known.rope_lens, longest)
            if not all(map(is_, found, self._angles_written[number])):
                self._write_angles(number, *found)
        return self._address

    @property
    def samples_all(self) -> bool:
        """Whether every row of the batch written last is sampled, in order."""
        assert self._known is not None
        return self._known.samples_all

    def _look_at(self, batch: Batch) -> _KnownBatch:
        """Check a batch's arrays and write their addresses."""
        self._known = None
        words = self._words
        n, sequences = batch.seq_starts_host[-1], len(batch.kv_lens_host)
        assert len(batch.seq_starts_host) == sequences + 1
        words[step.N // 8], words[step.B // 8] = n, sequences
        words[step.TOKENS // 8] = _address(batch.tokens, n)
        words[step.POSITIONS // 8] = _address(batch.positions, n)
        words[step.SEQ_STARTS // 8] = _address(batch.seq_starts, sequences + 1)
        words[step.KV_LENS // 8] = _address(batch.kv_lens, sequences)
        segments = self._none[:n] if batch.segments is None else batch.segments
        words[step.SEGMENTS // 8] = _address(segments, n)
        adapters = self._none[:n] if batch.adapters is None else batch.adapters
        words[step.ADAPTERS // 8] = _address(adapters, n)
        self._write_features(batch, n)
        for number, (group, state) in enumerate(zip(self.groups, batch.state, strict=True)):
            if isinstance(state, PagedState):
                self._write_paged(number, group, state, n, sequences, batch.kv_lens)
            else:
                self._write_fixed(number, group, state, sequences)
        self._known = _KnownBatch(batch, self.shape)
        return self._known

    def _write_features(self, batch: Batch, n: int) -> None:
        """Write the addresses of what only prompts with pictures have."""
        words = self._words
        words[step.FEATURE_ROWS // 8] = words[step.FEATURES // 8] = words[step.UNTIL // 8] = 0
        if batch.features is not None:
            rows, values = batch.features
            assert rows.max(initial=-1) < len(values)
            assert values.dtype == np.float32
            assert values.flags.c_contiguous
            words[step.FEATURE_ROWS // 8] = _address(rows, n)
            words[step.FEATURES // 8] = address(values)
        if batch.until is not None:
            assert (batch.until < batch.kv_lens.repeat(np.diff(batch.seq_starts))).all()
            words[step.UNTIL // 8] = _address(batch.until, n)

    def _write_angles(self, number: int, table: F32, index: Words) -> None:
        """Write the addresses of a rotary table's angles and of the row index."""
        at = step.rope_at(number, len(self.groups)) // 8
        self._words[at + step.ANGLES // 8] = address(table)
        self._words[at + step.INDEX // 8] = address(index)
        self._angles_written[number] = table, index

    def _stands(self, number: int, arrays: tuple[Array, ...]) -> bool:
        """Whether the header already has a group's addresses of these arrays; true in most
        steps."""
        written = self._written.get(number, ())
        return len(written) == len(arrays) and all(map(is_, written, arrays))

    def _write_paged(
        self,
        number: int,
        group: StateGroup,
        state: PagedState,
        n: int,
        sequences: int,
        kv_lens: Words,
    ) -> None:
        if not self._stands(number, (state.k, state.v)):
            self._write_cache(number, group, state)
        table = state.table
        assert table.dtype == np.int32
        assert table.flags.c_contiguous
        assert table.shape[0] == sequences
        at = step.group_at(number) // 8
        words = self._words
        words[at + step.TABLE // 8] = address(table)
        words[at + step.TABLE_WIDTH // 8] = table.shape[1]
        words[at + step.SLOTS // 8] = _address(state.slots, n)
        lens = kv_lens if state.lens is None else state.lens
        words[at + step.LENS // 8] = _address(lens, sequences)

    def _write_cache(self, number: int, group: StateGroup, state: PagedState) -> None:
        """Write the addresses of keys and values."""
        size, spec, blocks = self.shape.block_size, group.spec, state.k.shape[1]
        assert isinstance(spec, PagedKV)
        for tensor, dim in ((state.k, spec.k_dim), (state.v, spec.v_dim)):
            row = row_bytes(self.shape.kv, dim) // tensor.itemsize
            assert tensor.shape == (group.layers, blocks, size, spec.heads, row), tensor.shape
            assert tensor.dtype == STATE_DTYPES[self.shape.kv]
            assert tensor.flags.c_contiguous
        at = step.group_at(number) // 8
        words = self._words
        words[at + step.K // 8] = address(state.k)
        words[at + step.K_LAYER // 8] = state.k.nbytes // group.layers
        words[at + step.V // 8] = address(state.v)
        words[at + step.V_LAYER // 8] = state.v.nbytes // group.layers
        self._written[number] = (state.k, state.v)

    def _write_fixed(
        self, number: int, group: StateGroup, state: FixedState, sequences: int
    ) -> None:
        assert isinstance(group.spec, Fixed)
        arrays = tuple(state.tensors[name] for name, _ in group.spec.shapes)
        if not self._stands(number, arrays):
            self._write_tensors(number, group, group.spec, arrays)
        at = step.group_at(number) // 8
        self._words[at + step.SLOTS // 8] = _address(state.slots, sequences)

    def _write_tensors(
        self, number: int, group: StateGroup, spec: Fixed, arrays: tuple[Array, ...]
    ) -> None:
        """Write the addresses of a fixed group's tensors."""
        for n, (tensor, (_, shape)) in enumerate(zip(arrays, spec.shapes, strict=True)):
            assert tensor.shape == (group.layers, tensor.shape[1], *shape), tensor.shape
            assert tensor.dtype == STATE_DTYPES[spec.dtype]
            assert tensor.flags.c_contiguous
            at = step.tensor_at(number, n) // 8
            self._words[at + step.STATE // 8] = address(tensor)
            self._words[at + step.STATE_LAYER // 8] = tensor.nbytes // group.layers
        self._written[number] = arrays


def _address(numbers: Words, count: int) -> int:
    """The address of `count` contiguous int64."""
    assert numbers.dtype == np.int64
    assert numbers.shape == (count,)
    assert numbers.flags.c_contiguous
    return address(numbers)
