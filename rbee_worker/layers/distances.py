"""Relative positions as T5 has them: a learned number for each head and bucket of distances.

Raffel et al. 2020 ("Exploring the limits of transfer learning", section 2.1): near distances have
buckets of their own, farther ones share logarithmically wider ones, and from some distance on all
are alike.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
MARGIN = 16  # equal numbers at each end of a row: see `Ops.attend`


def distance_rows(buckets: F32, *, farthest: int, both_ways: bool) -> F32:
    """`Ops.attend`'s distances [heads, 2 * reach + 1] from T5's table [buckets, heads].

    farthest: the distance from which on all are alike. both_ways: later keys are seen too, and
    have the second half of the buckets.
    """
    reach = farthest + MARGIN - 1
    away = np.arange(-reach, reach + 1)
    count = len(buckets) // 2 if both_ways else len(buckets)
    second = count * (away > 0) if both_ways else 0
    back = np.abs(away) if both_ways else np.maximum(-away, 0)
    return np.ascontiguousarray(buckets[second + _bucket(back, count, farthest)].T)


def _bucket(distance: NDArray[np.int64], count: int, farthest: int) -> NDArray[np.int64]:
    """The bucket of each distance >= 0, of `count` buckets. In float32, where transformers
    computes it: a distance on a bucket's border must be on the same side."""
    near = count // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(near)
    wide = np.log(ratio) / np.float32(math.log(farthest / near)) * np.float32(count - near)
    far = np.minimum(near + wide.astype(np.int64), count - 1)
    return np.where(distance < near, distance, far)
