"""State memory as torch tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rbee_worker.ops.batch import Batch, FixedMemory, Memory, PagedMemory, StepNumbers
from rbee_worker.state.specs import StateGroup
from rbee_worker.state.tensors import StateTensors


class TorchState(StateTensors):
    """See `StateMemory`. On the CPU a batch shares the numbers' memory."""

    def __init__(
        self,
        groups: Sequence[StateGroup],
        n_blocks: Sequence[int],
        n_slots: int,
        *,
        block_size: int,
        dtype: str,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            groups, n_blocks, n_slots, block_size=block_size, dtype=dtype, device=device
        )
        self._device = device
        self._memory: list[Memory] = [
            FixedMemory({str(i): t for i, t in enumerate(fixed or ())})
            if pair is None
            else PagedMemory(*pair)
            for pair, fixed in zip(self.paged, self.fixed, strict=True)
        ]
        self._staged: tuple[StepNumbers, Batch] | None = None

    def stage(self, numbers: StepNumbers) -> Batch:
        """See `StateMemory.stage`."""
        if self._staged is None or self._staged[0] is not numbers or self._device != "cpu":
            batch = Batch.make(
                numbers, self._memory, lambda array: torch.from_numpy(array).to(self._device)
            )
            self._staged = numbers, batch
        return self._staged[1]

    def clear(self, slots: Sequence[int]) -> None:
        """See `StateMemory.clear`."""
        for slot in slots:
            self.clear_slot(slot)

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """See `StateMemory.copy`."""
        for tensors in self.fixed:
            for tensor in tensors or ():
                for source, target in slots:
                    tensor[:, target] = tensor[:, source]
