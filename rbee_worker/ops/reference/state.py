"""State memory of the reference backend: torch tensors on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch, FixedMemory, Memory, PagedMemory, StepNumbers
from rbee_worker.ops.cpu.shared.regions import zeros
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.specs import PagedKV, StateGroup

STATE_DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}


class TorchState:
    """Keys and values [layers, blocks, block_size, heads, dim], fixed states [layers, slots, ...].

    Zeroed. On the CPU, the system provides a page when it is first written. `n_blocks` (one per
    group) and `n_slots` are the pool's; block 0 and slot 0 are sinks.
    """

    def __init__(
        self,
        groups: Sequence[StateGroup],
        n_blocks: Sequence[int],
        n_slots: int,
        *,
        block_size: int,
        dtype: str,
        device: str = "cpu",
        features: FeatureBook | None = None,
    ) -> None:
        self._device = torch.device(device)
        self.memory: list[Memory] = []
        for group, blocks in zip(groups, n_blocks, strict=True):
            spec = group.spec
            if isinstance(spec, PagedKV):
                shape = (group.layers, blocks * spec.lanes, block_size, spec.heads)
                # a latent group stores no values: they are the first columns of its keys
                k, v = (self._zeros((*shape, dim), dtype) for dim in (spec.k_dim, spec.v_dim))
                self.memory.append(PagedMemory(k, v))
            else:
                shapes = {name: (group.layers, n_slots, *shape) for name, shape in spec.shapes}
                tensors = {name: self._zeros(s, spec.dtype) for name, s in shapes.items()}
                self.memory.append(FixedMemory(tensors))
        self._rows = 0
        self._features: Tensor | None = None
        if features is not None:
            self._rows, width = features.spec.rows, features.spec.width
            self._features = self._zeros((features.slots * self._rows, width), "f32")

    @property
    def nbytes(self) -> int:
        """See `StateMemory.nbytes`."""
        pairs = (m for m in self.memory if isinstance(m, PagedMemory))
        total: int = sum(m.k.nbytes + m.v.nbytes for m in pairs) + sum(
            tensor.nbytes for tensor in self._fixed_tensors()
        )
        return total + (0 if self._features is None else self._features.nbytes)

    def stage(self, numbers: StepNumbers) -> Batch:
        """See `StateMemory.stage`. On the CPU, the tensors share the numbers' own memory."""
        return Batch.make(
            numbers,
            self.memory,
            lambda a: torch.from_numpy(a).to(self._device),
            self._features,
        )

    def keep_features(self, slot: int, rows: Tensor) -> None:
        """See `StateMemory.keep_features`."""
        assert self._features is not None
        self._features[slot * self._rows : (slot + 1) * self._rows] = rows

    def clear(self, slots: Sequence[int]) -> None:
        """See `StateMemory.clear`."""
        for tensor in self._fixed_tensors():
            for slot in slots:
                tensor[:, slot].zero_()

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """See `StateMemory.copy`."""
        for source, target in slots:
            for tensor in self._fixed_tensors():
                tensor[:, target] = tensor[:, source]

    def _fixed_tensors(self) -> list[Tensor]:
        fixed = (memory for memory in self.memory if isinstance(memory, FixedMemory))
        return [tensor for memory in fixed for tensor in memory.tensors.values()]

    def _zeros(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Zeros that take no memory on the CPU until they are written. torch would write its zeros
        at once, which makes a large pool slow to start and takes its memory even if it is never
        used."""
        kind = STATE_DTYPES[dtype]
        if self._device.type != "cpu" or 0 in shape:
            return torch.zeros(shape, dtype=kind, device=self._device)
        size = torch.Size(shape).numel() * kind.itemsize
        return torch.from_numpy(zeros(size)).view(kind).view(shape)
