"""The memory behind `StatePool`: one pair of tensors for each paged group, some for each fixed one.

Zeroed, and lazily on the CPU: the system gives a page when a block on it is first written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rbee_worker.state.specs import Fixed, PagedKV, StateGroup, row_bytes

STATE_DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i8": torch.int8,
}
ALIGNMENT = 64  # bytes; a cache line, and the widest vector


class StateTensors:
    """Keys and values [layers, blocks, block_size, heads, dim]; fixed states [layers, slots, ...].

    i8: dim + 4 bytes each, room for the scale that the backend keeps with a key or value.

    `n_blocks` and `n_slots` are the pool's; the first block and slot are sinks for padding.
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
    ) -> None:
        self.paged: list[tuple[Tensor, Tensor] | None] = []
        self.fixed: list[dict[str, Tensor] | None] = []
        self.block_size = block_size
        kv = STATE_DTYPES[dtype]
        for group, blocks in zip(groups, n_blocks, strict=True):
            spec = group.spec
            if isinstance(spec, PagedKV):
                shape = (group.layers, blocks, block_size, spec.heads)
                k = zeros((*shape, row_bytes(dtype, spec.k_dim) // kv.itemsize), kv, device)
                # values of a latent cache are the first columns of its keys: nothing is stored
                v = zeros((*shape, row_bytes(dtype, spec.v_dim) // kv.itemsize), kv, device)
                self.paged.append((k, v))
                self.fixed.append(None)
            else:
                self.paged.append(None)
                self.fixed.append(_fixed(spec, group.layers, n_slots, device))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, touched or not."""
        paged = [t for pair in self.paged if pair for t in pair]
        return sum(t.nbytes for t in [*paged, *self._fixed_tensors()])

    def clear_slot(self, slot: int) -> None:
        """A sequence starts from zero state."""
        for tensor in self._fixed_tensors():
            tensor[:, slot].zero_()

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """State of slot `source` to slot `target`, pair after pair, in every fixed group."""
        for source, target in slots:
            for tensor in self._fixed_tensors():
                tensor[:, target].copy_(tensor[:, source])

    def _fixed_tensors(self) -> list[Tensor]:
        return [tensor for named in self.fixed if named for tensor in named.values()]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros that cost nothing until they are touched. torch writes its zeros at once, which makes
    a large pool slow to start and takes its memory whether or not it is ever used."""
    if device != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    data = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -data.ctypes.data % ALIGNMENT
    return torch.from_numpy(data[start : start + size]).view(dtype).view(shape)


def _fixed(spec: Fixed, layers: int, slots: int, device: str) -> dict[str, Tensor]:
    dtype = STATE_DTYPES[spec.dtype]
    return {name: zeros((layers, slots, *shape), dtype, device) for name, shape in spec.shapes}
