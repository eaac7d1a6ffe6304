"""Where recurrences find their rows and states, and functions that they share."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Sequences(NamedTuple):
    """The sequences of a step. starts: int64 [B + 1], the first row of each, then the end; slots:
    int64 [B], where their states are; longest: the most rows that one of them has."""

    starts: Tensor
    slots: Tensor
    longest: int

    @property
    def number(self) -> int:
        return self.slots.shape[0]


def by_row(x: Tensor) -> Tensor:
    """x with the numbers of a row one after another, as kernels read them."""
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous()


@triton.jit
def softplus(x):
    """log(1 + e^x), also where e^x is small."""
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    small = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.maximum(x, 0.0) + small


@triton.jit
def silu(x):
    """x / (1 + e^-x)"""
    return x / (1.0 + tl.exp(-x))
