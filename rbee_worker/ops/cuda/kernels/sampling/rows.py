"""What kernels of sampling share: chunks of a row, its parameters, its weights, what is kept.

Settings are float64 [S, COLUMNS]. By its KIND, a row is drawn by the sum of its
weights (GENERAL) or among its top_k tokens (SHORT), or its most likely token is taken (GREEDY).

A row's limit is a threshold: tokens above it are kept, and of those equal to it the ones up to an
id. Limits are float64 [S, 2]: `ordered` logit, id.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.launch import INTERPRETED, power_of_two
from rbee_worker.ops.cuda.kernels.order import ordered

CHUNK = 4096  # most columns of one program
BLOCK = CHUNK if INTERPRETED else 512  # columns at a time where a program has much to keep of each
COLUMNS = 8
SCALE, TOP_K, TOP_P, MIN_P, U, KIND = (tl.constexpr(i) for i in range(6))
GENERAL, GREEDY, SHORT = (tl.constexpr(i) for i in range(3))


def chunk_of(vocab: int) -> int:
    """The columns of one program."""
    return min(CHUNK, power_of_two(vocab))


@triton.jit
def setting(settings, row, COLUMN: tl.constexpr):
    """One setting of a row, float64."""
    return tl.load(settings + row * 8 + COLUMN)


@triton.jit
def top_of(tops, row, chunks, CP: tl.constexpr):
    """A row's largest logit from those of its chunks, float32 [S, chunks]."""
    c = tl.arange(0, CP)
    return tl.max(tl.load(tops + row * chunks + c, mask=c < chunks, other=float("-inf")), 0)


@triton.jit
def weight(x, top, scale):
    """exp((x - top) * scale) in float64, with inf - inf as 0."""
    far = tl.where(x == top, 0.0, x.to(tl.float64) - top.to(tl.float64))
    return tl.exp(far * scale)


@triton.jit
def kept_by(x, id_, key, last):
    """Whether a limit keeps tokens."""
    mine = ordered(x).to(tl.float64)
    return (mine > key) | ((mine == key) & (id_ <= last))
