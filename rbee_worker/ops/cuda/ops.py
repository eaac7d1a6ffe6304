"""`CudaOps`: what models are built with: it holds weights on the device and records the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rbee_worker.checkpoint.decoding import as_floats
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Weight
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.cuda.sampling import CudaSampling
from rbee_worker.ops.cuda.weight_upload import WeightUpload
from rbee_worker.ops.graph.recorder import GraphOps
from rbee_worker.ops.reference.ops import DTYPES


class CudaOps(GraphOps):
    """See `Ops`. now: the same operations, computed at once on tensors of the device."""

    name = "cuda"

    def __init__(self, device: str, dtype: str, *, pdl: bool = False) -> None:
        self.device, self.dtype = device, dtype
        self.now = DeviceOps(device, dtype, pdl=pdl)
        self.drawn = Drawn(torch.device(device))
        self._upload = WeightUpload(torch.device(device))

    def sampling(self, vocab_size: int) -> CudaSampling:
        """See `Ops.sampling`."""
        return CudaSampling(torch.device(self.device), vocab_size, self.drawn)

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        whole = self.stack([parts])
        return replace(whole, data=whole.data[0])

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        first = members[0]
        rows, cols = sum(p.shape[0] for p in first), first[0].shape[1]
        shape = (len(members), rows, cols)
        data = torch.empty(shape, dtype=DTYPES[self.dtype], device=self.device)
        for member, parts in zip(data, members, strict=True):
            start = 0
            for part in parts:
                self._upload.matrix(part, member[start : start + part.shape[0]])
                start += part.shape[0]
            assert start == rows
        formats = "+".join(dict.fromkeys(p.format for p in first))
        return Weight(data, rows, cols, formats, self.dtype, data.nbytes, len(members))

    def vector(self, parts: Sequence[Packed]) -> Tensor:
        return torch.cat([self._upload.floats(part).reshape(-1) for part in parts])

    def floats(self, packed: Packed) -> Packed:
        return as_floats(packed, threads=torch.get_num_threads())

    def weights_done(self) -> None:
        self._upload.wait()
