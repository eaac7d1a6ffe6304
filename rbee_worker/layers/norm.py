"""Normalisation of a row, or of each head in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rbee_worker.ops import Ops

if TYPE_CHECKING:
    from torch import Tensor


class Norm(Protocol):
    """What a block needs of a norm: of a row, and of the sum of two."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, width] -> [N, width]"""

    def after_add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual)"""


@dataclass(frozen=True)
class RMSNorm:
    """Root mean square norm (Zhang & Sennrich 2019), over each of `heads` equal parts of a row."""

    ops: Ops
    weight: Tensor | None
    eps: float
    heads: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, width] -> [N, width]"""
        return self.ops.rms_norm(x, self.weight, self.eps, heads=self.heads)

    def after_add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual)"""
        assert self.heads == 1
        return self.ops.add_rms_norm(x, residual, self.weight, self.eps)


@dataclass(frozen=True)
class LayerNorm:
    """Layer norm (Ba et al. 2016), over each of `heads` equal parts of a row.

    weight None: no scale; bias None: no offset.
    """

    ops: Ops
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    heads: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, width] -> [N, width]"""
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps, heads=self.heads)

    def after_add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual)"""
        total = self.ops.add(x, residual)
        return self(total), total


@dataclass(frozen=True)
class EachHeadNorm:
    """Layer norm of each of `heads` equal parts of a row, every head with weights of its own."""

    ops: Ops
    weight: Tensor  # [heads * head_dim]
    eps: float
    heads: int

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, heads * head_dim] -> the same shape"""
        normed = self.ops.layer_norm(x, None, None, self.eps, heads=self.heads)
        return self.ops.scale(normed, self.weight)
