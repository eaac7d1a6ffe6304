"""The cpu backend for tests that speak torch: arrays on one side, tensors on the other, the same
memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch, FixedState, PagedState, State
from rbee_worker.ops.cpu.backend.sampling import CpuSampling


def array(x: Any) -> Any:
    """A tensor's memory as the backend has it: bf16 as its bits."""
    if not isinstance(x, Tensor):
        return x
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def arrays(batch: Batch) -> Batch:
    """A batch of tensors as one of arrays."""
    named = {k: array(v) for k, v in vars(batch).items()}
    return Batch(**{**named, "state": tuple(map(_state, batch.state))})


def _state(state: State) -> State:
    if isinstance(state, PagedState):
        return PagedState(*map(array, (state.k, state.v, state.table, state.slots)))
    tensors = {name: array(tensor) for name, tensor in state.tensors.items()}
    return FixedState(tensors, array(state.slots))


class TorchLogits:
    """A `CpuSampling` whose logits are tensors."""

    def __init__(self, sampling: CpuSampling) -> None:
        self.sampling = sampling
        self._known: tuple[Tensor, Any] | None = None  # the last logits, and their array

    def _array(self, logits: Tensor) -> Any:
        if self._known is None or self._known[0] is not logits:
            self._known = logits, logits.numpy()
        return self._known[1]

    def greedy(self, logits: Tensor) -> Any:
        return self.sampling.greedy(self._array(logits))

    def choose(self, logits: Tensor, params: Any, masks: Any = None) -> Any:
        return self.sampling.choose(self._array(logits), params, masks)

    def score(self, logits: Tensor, *args: Any) -> Any:
        return self.sampling.score(self._array(logits), *args)

    def bias_table(self, max_seqs: int) -> Any:
        return _TorchTable(self.sampling.bias_table(max_seqs), self)


class _TorchTable:
    """A `CpuBiasTable` whose logits are tensors."""

    def __init__(self, table: Any, owner: TorchLogits) -> None:
        self.table, self._owner = table, owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)

    def apply(self, logits: Tensor, edits: Any) -> Any:
        known = self._owner._array(logits)
        undo = self.table.apply(known, edits)

        def put_back(same: Tensor) -> None:
            assert same is logits
            undo(known)

        return put_back
