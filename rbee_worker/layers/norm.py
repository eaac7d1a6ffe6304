"""Normalisation of a row, or of each head in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array


class Norm(Protocol):
    """The interface of a norm: it normalises a row, or the sum of two rows."""

    def __call__(self, x: Array) -> Array:
        """x [N, width] -> [N, width]"""

    def after_add(self, x: Array, residual: Array) -> tuple[Array, Array]:
        """(norm of x + residual, x + residual)"""


@dataclass(frozen=True)
class NoNorm:
    """In the place of a norm where a layer has none."""

    ops: Ops

    def __call__(self, x: Array) -> Array:
        """x, unchanged"""
        return x

    def after_add(self, x: Array, residual: Array) -> tuple[Array, Array]:
        """(x + residual, the same)"""
        total = self.ops.add(x, residual)
        return total, total


@dataclass(frozen=True)
class RMSNorm:
    """Root mean square norm (Zhang & Sennrich 2019), over each of `heads` equal parts of a row."""

    ops: Ops
    weight: Array | None
    eps: float
    heads: int = 1

    def __call__(self, x: Array) -> Array:
        """x [N, width] -> [N, width]"""
        return self.ops.rms_norm(x, self.weight, self.eps, heads=self.heads)

    def after_add(self, x: Array, residual: Array) -> tuple[Array, Array]:
        """(norm of x + residual, x + residual)"""
        assert self.heads == 1
        return self.ops.add_rms_norm(x, residual, self.weight, self.eps)


@dataclass(frozen=True)
class LayerNorm:
    """Layer norm (Ba et al. 2016), over each of `heads` equal parts of a row.

    weight None: no scale; bias None: no offset.
    """

    ops: Ops
    weight: Array | None
    bias: Array | None
    eps: float
    heads: int = 1

    def __call__(self, x: Array) -> Array:
        """x [N, width] -> [N, width]"""
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps, heads=self.heads)

    def after_add(self, x: Array, residual: Array) -> tuple[Array, Array]:
        """(norm of x + residual, x + residual)"""
        total = self.ops.add(x, residual)
        return self(total), total


@dataclass(frozen=True)
class EachHeadNorm:
    """Layer norm of each of `heads` equal parts of a row, with weights for each head."""

    ops: Ops
    weight: Array  # [heads * head_dim]
    eps: float
    heads: int

    def __call__(self, x: Array) -> Array:
        """x [N, heads * head_dim] -> the same shape"""
        normed = self.ops.layer_norm(x, None, None, self.eps, heads=self.heads)
        return self.ops.scale(normed, self.weight)


@dataclass(frozen=True)
class GroupNorm:
    """RMS norm over each of `groups` equal parts of a row, with a weight for each column."""

    ops: Ops
    weight: Array  # [width]
    eps: float
    groups: int

    def __call__(self, x: Array) -> Array:
        """x [N, width] -> the same shape"""
        if self.groups == 1:
            return self.ops.rms_norm(x, self.weight, self.eps)
        normed = self.ops.rms_norm(x, None, self.eps, heads=self.groups)
        return self.ops.scale(normed, self.weight)
