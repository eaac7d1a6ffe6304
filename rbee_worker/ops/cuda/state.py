"""State memory on the device, and a step's numbers on their way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch, FixedMemory, Memory, PagedMemory, StepNumbers
from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.reference.state import STATE_DTYPES as FLOATS
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.specs import PagedKV, StateGroup

STATE_DTYPES = {**FLOATS, "f8": torch.float8_e4m3fn}
_RING = 4  # steps whose numbers may be on their way at once
_KEPT = 64  # batches that may come again


class DecodingBatch(Batch):
    """A batch in which every sequence has one row, and all rows are sampled, in order."""


class _Staged(NamedTuple):
    """A batch that comes again: its numbers' object, its device memory, the draws it takes."""

    numbers: StepNumbers
    batch: Batch
    memory: Tensor
    takes: Tensor | None


class CudaState:
    """Keys and values [layers, blocks, heads, block_size, dim] seen as `PagedState` has them; fixed
    states [layers, slots, ...]. Zeroed."""

    def __init__(
        self,
        groups: Sequence[StateGroup],
        n_blocks: Sequence[int],
        n_slots: int,
        *,
        block_size: int,
        dtype: str,
        device: str,
        drawn: Drawn,
        features: FeatureBook | None = None,
    ) -> None:
        self._device, self._drawn = torch.device(device), drawn
        self._rows = 0  # of the features of one tile
        self._features: Tensor | None = None
        if features is not None:
            self._rows, width = features.spec.rows, features.spec.width
            self._features = self._zeros((features.slots * self._rows, width), "f32")
        self.memory: list[Memory] = []
        for group, blocks in zip(groups, n_blocks, strict=True):
            spec = group.spec
            if isinstance(spec, PagedKV):
                shape = (group.layers, blocks * spec.lanes, spec.heads, block_size)
                k, v = (
                    self._zeros((*shape, dim), dtype).transpose(2, 3)
                    for dim in (spec.k_dim, spec.v_dim)
                )
                self.memory.append(PagedMemory(k, v))
            else:
                shapes = {name: (group.layers, n_slots, *shape) for name, shape in spec.shapes}
                self.memory.append(
                    FixedMemory({n: self._zeros(s, spec.dtype) for n, s in shapes.items()})
                )
        self._ring = _Ring(self._device)
        self._kept: dict[tuple[int, bool], _Staged] = {}  # by the numbers' id, with adapters or not

    def _zeros(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        return torch.zeros(shape, dtype=STATE_DTYPES[dtype], device=self._device)

    @property
    def nbytes(self) -> int:
        """See `StateMemory.nbytes`."""
        pairs = (m for m in self.memory if isinstance(m, PagedMemory))
        total: int = sum(m.k.nbytes + m.v.nbytes for m in pairs)
        total += 0 if self._features is None else self._features.nbytes
        return total + sum(tensor.nbytes for tensor in self._fixed())

    @torch.inference_mode()
    def stage(self, numbers: StepNumbers) -> Batch:
        """See `StateMemory.stage`. A decoding step's batch is the same object each time its numbers
        are, and so may be captured in a graph; it is another object for steps without adapters."""
        adapts = numbers.adapters is not None and bool(numbers.adapters.any())
        kept = self._kept.get((id(numbers), adapts))
        if kept is None or kept.numbers is not numbers:
            kept = self._staged(numbers, adapts=adapts)
            if isinstance(kept.batch, DecodingBatch):
                if len(self._kept) >= _KEPT:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[id(numbers), adapts] = kept
        else:
            self._ring.send(_arrays(numbers), kept.memory)
        if kept.takes is not None:
            self._drawn.into(kept.batch.tokens, kept.takes)
        return kept.batch

    def _staged(self, numbers: StepNumbers, *, adapts: bool) -> _Staged:
        arrays = _arrays(numbers)
        memory = torch.empty(_size(arrays), dtype=torch.uint8, device=self._device)
        self._ring.send(arrays, memory)
        places = {id(array): at for array, at in zip(arrays, _offsets(arrays), strict=True)}

        def put(array: NDArray[Any]) -> Tensor:
            at = places[id(array)]
            dtype = torch.int32 if array.dtype == np.int32 else torch.int64
            return memory[at : at + array.nbytes].view(dtype).view(array.shape)

        takes = None if numbers.takes is None else put(numbers.takes)
        kind = DecodingBatch if _decodes(numbers) else Batch
        given = numbers if adapts else replace(numbers, adapters=None)
        batch = kind.make(given, self.memory, put, self._features)
        return _Staged(numbers, batch, memory, takes)

    @torch.inference_mode()
    def keep_features(self, slot: int, rows: Tensor) -> None:
        """See `StateMemory.keep_features`."""
        assert self._features is not None
        self._features[slot * self._rows : (slot + 1) * self._rows] = rows

    @torch.inference_mode()
    def clear(self, slots: Sequence[int]) -> None:
        """See `StateMemory.clear`."""
        for tensor in self._fixed():
            for slot in slots:
                tensor[:, slot].zero_()

    @torch.inference_mode()
    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """See `StateMemory.copy`."""
        for source, target in slots:
            for tensor in self._fixed():
                tensor[:, target] = tensor[:, source]

    def _fixed(self) -> list[Tensor]:
        fixed = (memory for memory in self.memory if isinstance(memory, FixedMemory))
        return [tensor for memory in fixed for tensor in memory.tensors.values()]


class _Ring:
    """Pinned buffers for a step's numbers; one is used again when its copy has been made."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._next = device, 0
        self._buffers: list[Tensor] = []
        self._events: list[Any] = []

    def send(self, arrays: Sequence[NDArray[Any]], target: Tensor) -> None:
        """Copy the arrays, one after another, to `target` on the device."""
        size = target.shape[0]
        if self._device.type == "cpu":
            _pack(arrays, target.numpy())
            return
        if not self._buffers or len(self._buffers[0]) < size:
            room = max(1 << 16, 1 << (size - 1).bit_length())
            torch.cuda.synchronize(self._device)
            self._buffers = [
                torch.empty(room, dtype=torch.uint8, pin_memory=True) for _ in range(_RING)
            ]
            self._events = [
                torch.cuda.Event()  # type: ignore[no-untyped-call]
                for _ in range(_RING)
            ]
        slot = self._next = (self._next + 1) % _RING
        self._events[slot].synchronize()
        held = self._buffers[slot][:size]
        _pack(arrays, held.numpy())
        target.copy_(held, non_blocking=True)
        self._events[slot].record()


def _decodes(numbers: StepNumbers) -> bool:
    """Has every sequence one row, and are all rows sampled, in order? Numbers with features, of a
    picture or of a voice, do not come again."""
    rows = len(numbers.tokens)
    if numbers.features is not None or not rows == len(numbers.kv_lens) == len(numbers.sample_rows):
        return False
    return bool((numbers.sample_rows == np.arange(rows)).all())


def _arrays(numbers: StepNumbers) -> list[NDArray[Any]]:
    """Every array of a step's numbers."""
    found: list[NDArray[Any] | None] = [
        numbers.tokens,
        numbers.positions,
        numbers.seq_starts,
        numbers.kv_lens,
        numbers.rope_lens,
        numbers.sample_rows,
        numbers.takes,
        numbers.segments,
        numbers.adapters,
        numbers.features,
        numbers.until,
    ]
    for place in numbers.places:
        found += [place.slots, getattr(place, "table", None), getattr(place, "lens", None)]
    return [array for array in found if array is not None]


def _offsets(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Where each array begins in one buffer, at whole multiples of 16 bytes."""
    found, at = [], 0
    for array in arrays:
        found.append(at)
        at += -(-array.nbytes // 16) * 16
    return found


def _size(arrays: Sequence[NDArray[Any]]) -> int:
    return sum(-(-array.nbytes // 16) * 16 for array in arrays)


def _pack(arrays: Sequence[NDArray[Any]], out: NDArray[np.uint8]) -> None:
    for array, at in zip(arrays, _offsets(arrays), strict=True):
        out[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
