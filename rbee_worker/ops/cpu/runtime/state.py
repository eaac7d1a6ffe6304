"""State memory of the cpu backend: numpy arrays that the kernels read and write in place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.batch import Array, Batch, FixedMemory, Memory, PagedMemory, StepNumbers
from rbee_worker.ops.cpu.shared.regions import zeros
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup, row_bytes

# How numpy keeps each dtype of the state; numpy has no bf16, so its bits are kept.
STATE_DTYPES: dict[str, np.dtype[np.generic]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "i8": np.dtype(np.int8),
}


class CpuState:
    """Keys and values [layers, blocks, block_size, heads, dim], fixed states [layers, slots, ...].

    Arrays begin on a cache line and are zero; the system gives a page of them when it is first
    written. An i8 cache has dim + 4 bytes a head, room for the scale that is kept with it.
    `n_blocks` (one for each group) and `n_slots` are the pool's; block 0 and slot 0 are sinks.
    """

    def __init__(
        self,
        groups: Sequence[StateGroup],
        n_blocks: Sequence[int],
        n_slots: int,
        *,
        block_size: int,
        dtype: str,
        features: FeatureBook | None = None,
    ) -> None:
        self.memory: list[Memory] = []
        for group, blocks in zip(groups, n_blocks, strict=True):
            if isinstance(group.spec, PagedKV):
                shape = (group.layers, blocks * group.spec.lanes, block_size)
                self.memory.append(_paged(group.spec, shape, dtype))
            else:
                self.memory.append(_fixed(group.spec, group.layers, n_slots))
        self._rows = 0
        self._features: Array | None = None
        if features is not None:
            self._rows, width = features.spec.rows, features.spec.width
            self._features = _lazy_zeros((features.slots * self._rows, width), "f32")
        self._staged: tuple[StepNumbers, Batch] | None = None

    @property
    def nbytes(self) -> int:
        """See `StateMemory.nbytes`."""
        features = 0 if self._features is None else int(self._features.nbytes)
        own: int = sum(a.nbytes for memory in self.memory for a in _arrays(memory))
        return features + own

    def stage(self, numbers: StepNumbers) -> Batch:
        """See `StateMemory.stage`. The batch has the numbers' own arrays; the same object gives the
        same batch, by which a header knows that it has checked the arrays."""
        if self._staged is None or self._staged[0] is not numbers:
            batch = Batch.make(numbers, self.memory, features=self._features)
            self._staged = numbers, batch
        return self._staged[1]

    def keep_features(self, slot: int, rows: Array) -> None:
        """See `StateMemory.keep_features`."""
        assert self._features is not None
        self._features[slot * self._rows : (slot + 1) * self._rows] = rows

    def clear(self, slots: Sequence[int]) -> None:
        """See `StateMemory.clear`."""
        for tensor in self._fixed_tensors():
            for slot in slots:
                tensor[:, slot] = 0

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """See `StateMemory.copy`."""
        for source, target in slots:
            for tensor in self._fixed_tensors():
                tensor[:, target] = tensor[:, source]

    def _fixed_tensors(self) -> list[Array]:
        fixed = (memory for memory in self.memory if isinstance(memory, FixedMemory))
        return [tensor for memory in fixed for tensor in memory.tensors.values()]


def _arrays(memory: Memory) -> list[Array]:
    if isinstance(memory, PagedMemory):
        return [memory.k, memory.v]
    return list(memory.tensors.values())


def _paged(spec: PagedKV, shape: tuple[int, ...], dtype: str) -> PagedMemory:
    """Keys and values of one group. A latent group keeps no values: they are the first columns of
    its keys."""
    size = STATE_DTYPES[dtype].itemsize
    k, v = (
        _lazy_zeros((*shape, spec.heads, row_bytes(dtype, dim) // size), dtype)
        for dim in (spec.k_dim, spec.v_dim)
    )
    return PagedMemory(k, v)


def _fixed(spec: Fixed, layers: int, slots: int) -> FixedMemory:
    shapes = {name: (layers, slots, *shape) for name, shape in spec.shapes}
    return FixedMemory({name: _lazy_zeros(s, spec.dtype) for name, s in shapes.items()})


def _lazy_zeros(shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
    """Zeros from a cache line on, which take no memory until they are touched."""
    kept = STATE_DTYPES[dtype]
    return zeros(math.prod(shape) * kept.itemsize).view(kept).reshape(shape)
