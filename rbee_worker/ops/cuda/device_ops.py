"""`DeviceOps`: every operation computed at once, on tensors of the device.

Nodes of a lowered graph call these by their names. What has no kernel here is the reference
backend's torch operation, which runs on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec, Weight
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.adapters import AdaptedOps
from rbee_worker.ops.cuda.angles import Angles
from rbee_worker.ops.cuda.attention_ops import AttentionOps
from rbee_worker.ops.cuda.elementwise_ops import ElementwiseOps
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import rope
from rbee_worker.ops.cuda.kernels.tables import embed
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.matrix import DeviceMatrix
from rbee_worker.ops.cuda.mixture_ops import MixtureOps
from rbee_worker.ops.cuda.state_space_ops import StateSpaceOps


class DeviceOps(MixtureOps, AttentionOps, StateSpaceOps, ElementwiseOps, AdaptedOps):
    """See `Ops`. pdl: kernels start before the one before has ended, where they can."""

    name = "cuda"

    def __init__(self, device: str, dtype: str, *, pdl: bool) -> None:
        super().__init__(device, dtype)
        self.pdl = pdl
        self.workspace = Workspace(torch.device(device))
        self.angles = Angles(pdl=pdl)

    def begin(self, batch: Batch) -> None:
        """A new step, whose operations all get `batch`."""
        self.angles.begin()

    # ---- tables

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Tensor:
        matrix: DeviceMatrix = table.data
        if matrix.dense is None or matrix.scales is not None:
            x = matrix.rows_of(batch.tokens, self._dtype)
            x = x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)
        else:
            x = embed(matrix.dense, batch.tokens, scale=scale, pdl=self.pdl)
        return x

    def add_positions(self, x: Tensor, table: Weight, batch: Batch, *, offset: int = 0) -> Tensor:
        matrix: DeviceMatrix = table.data
        return x + matrix.rows_of(batch.positions + offset, self._dtype)

    def add_segments(self, x: Tensor, table: Weight, batch: Batch) -> Tensor:
        matrix: DeviceMatrix = table.data
        if batch.segments is None or table.rows == 1:
            return x + matrix.rows_of(torch.zeros_like(batch.positions[:1]), self._dtype)
        return x + matrix.rows_of(batch.segments, self._dtype)

    def sampled_rows(self, x: Tensor, batch: Batch) -> Tensor:
        """The rows that are sampled, in their order; see `ops.graph.sampled`."""
        return x[batch.sample_rows]

    # ---- norms and rows

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, heads: int = 1) -> Tensor:
        return norm(x, weight, eps, form=self._dtype, heads=heads, pdl=self.pdl)[0]

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, heads: int = 1
    ) -> Tensor:
        return norm(
            x, weight, eps, bias=bias, layer=True, form=self._dtype, heads=heads, pdl=self.pdl
        )[0]

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        form = torch.promote_types(x.dtype, residual.dtype)
        return norm(x, weight, eps, added=residual, sum_form=form, form=self._dtype, pdl=self.pdl)

    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        return rope(
            x,
            self.angles.of(spec, batch),
            heads=heads,
            interleaved=spec.interleaved,
            pdl=self.pdl,
        )


# Operations of `Ops` with kernels of this backend's own; the others are torch's.
NATIVE = frozenset(
    {
        "embed",
        "linear",
        "logits",
        "rms_norm",
        "layer_norm",
        "add_rms_norm",
        "gated",
        "rope",
        "attend",
        "keep",
        "route",
        "experts",
        "linear_scan",
        "causal_conv",
        "selective_scan",
        "ssd",
        "rg_lru",
        "gated_delta",
        "taylor",
        "heads_linear",
        "previous",
        "lerp",
        "wkv",
        "wkv_delta",
        "adapted",
        "add",
        "multiply",
        "scale",
        "clip",
        "softcap",
        "act",
        "concat",
        "scale_by_position",
    }
)
