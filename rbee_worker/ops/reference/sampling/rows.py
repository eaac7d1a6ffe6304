"""Operations on rows whose result for a row depends on that row only, bit for bit.

They make sampling independent of the batch: elementwise operations, comparisons, integer sums and
maxima are exact, and floating-point sums are computed in one fixed order per row. Nothing here may
use a floating-point reduction whose order depends on the shape of the whole tensor.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

BLOCK = 512  # columns whose weights are summed as a block


def portions(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices of `rows` rows to process one after another.

    On the CPU, a portion's float64 copy (1 MiB) stays in the cache, which is five times faster than
    all rows at once. Elsewhere a portion is as large as the memory for its copies (256 MiB) allows.
    """
    values = 1 << 17 if device.type == "cpu" else 1 << 25
    size = max(1, values // width)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def argmax(z: Tensor) -> Tensor:
    """The index of each row's largest value [R]; ties: the lowest index; NaN counts as largest.

    On the CPU, numpy's is 25 times faster than torch's; both return the first of equal maxima.
    """
    if z.device.type == "cpu":
        return torch.from_numpy(z.numpy().argmax(axis=1))
    return z.argmax(dim=1)


def descending(z: Tensor) -> Tensor:
    """Each row's values, largest first [R, V] (values only: half the work of an argsort)."""
    if z.device.type == "cpu":
        return torch.from_numpy(np.sort(z.numpy(), axis=1)[:, ::-1].copy())
    return torch.sort(z, dim=1, descending=True).values


def largest(z: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest values of each row, descending, and their indices, both [R, n].

    The order of equal values is not defined, nor which of several equal values at the n-th place is
    returned: the caller handles ties. A group's maximum bounds its members, so the n groups with
    the largest maxima contain the n largest values; only those are searched.
    """
    rows, vocab = z.shape
    size = 16 if n <= 128 else 8  # members of a group
    groups = vocab // size
    if groups <= n:
        values, ids = torch.topk(z, n, dim=1)
        return values, ids
    head = z[:, : groups * size].view(rows, size, groups)
    columns = torch.topk(head.amax(dim=1), n, dim=1, sorted=False).indices  # [R, n]
    candidates = head.gather(2, columns[:, None, :].expand(rows, size, n)).flatten(1)
    rest = vocab - groups * size
    if rest:
        candidates = torch.cat([candidates, z[:, vocab - rest :]], dim=1)
    values, places = torch.topk(candidates, n, dim=1)
    member = places // n
    ids = columns.gather(1, places - member * n) + member * groups
    if rest:
        ids = torch.where(member < size, ids, places + (groups * size - size * n))
    return values, ids


def weights(z: Tensor, top: Tensor, scale: Tensor) -> Tensor:
    """exp((z - top) * scale) in float64 [R, n]; top and scale are [R] float64.

    `top` is the row's maximum, `scale` 1 / temperature. If the maximum is +inf, tokens at +inf have
    weight 1 and all others 0.
    """
    x = z.to(torch.float64, copy=True).sub_(top[:, None])
    if math.inf in top.tolist():
        x.masked_fill_(x.isnan(), 0.0)  # inf - inf
    return x.mul_(scale[:, None]).exp_()


def block_sums(w: Tensor) -> Tensor:
    """The sums of each row's blocks of BLOCK columns [R, blocks]; the last block may be shorter."""
    rows, n = w.shape
    full = n // BLOCK
    head, tail = w[:, : full * BLOCK].view(rows, full, BLOCK), w[:, full * BLOCK :]
    if w.device.type == "cpu":  # torch sums each block alone, in an order set by the block's length
        sums = head.sum(dim=2)
        return torch.cat([sums, tail.sum(dim=1, keepdim=True)], dim=1) if n % BLOCK else sums
    tail = torch.nn.functional.pad(tail, (0, BLOCK - tail.shape[1]))
    x = torch.cat([head, tail[:, None, :]], dim=1)
    while x.shape[2] > 1:  # by halves: on other devices sum()'s order depends on the whole shape
        half = x.shape[2] // 2
        x = x[..., :half] + x[..., half:]
    return x[..., 0]


def drop_below(w: Tensor, least: Tensor) -> None:
    """Set weights [R, n] below the row's `least` [R] to 0, in place."""
    if w.device.type == "cpu":  # numpy's comparison is several times faster than torch's
        x = w.numpy()
        np.multiply(x, x >= least.numpy()[:, None], out=x)
    else:
        w.mul_(w >= least[:, None])


def masses(z: Tensor, scale: Floats, least: Floats | None = None) -> tuple[Floats, Floats]:
    """Each row's maximum [R], and its weights (only those of at least `least`) by block [R,
    blocks].

    z: [R, V] f32; scale, least: [R]. The results are on the host.
    """
    tops, sums = [], []
    scales = torch.from_numpy(scale).to(z.device)
    bounds = None if least is None else torch.from_numpy(least).to(z.device)
    for part in portions(z.shape[0], z.shape[1], z.device):
        top = z[part].amax(dim=1).double()
        w = weights(z[part], top, scales[part])
        if bounds is not None:
            drop_below(w, bounds[part])
        tops.append(top)
        sums.append(block_sums(w))
    return torch.cat(tops).cpu().numpy(), torch.cat(sums).cpu().numpy()


def running_sum(w: Floats) -> Floats:
    """The running sums of each row [R, n]. torch's loop is four times faster than numpy's."""
    sums: Floats = torch.from_numpy(w).cumsum(dim=1).numpy()
    return sums


def first_above(sums: Floats, target: Floats, *, or_at: bool = False) -> NDArray[np.int64]:
    """The first column of each ascending row [R, n] above (or at) the row's target [R]; n if
    none."""
    found = torch.searchsorted(
        torch.from_numpy(sums), torch.from_numpy(target)[:, None], right=not or_at
    )
    columns: NDArray[np.int64] = found[:, 0].numpy()
    return columns


def take(x: NDArray[T], columns: NDArray[np.int64]) -> NDArray[T]:
    """x[i, columns[i]] for each row i: [R] or [R, n], like `columns`."""
    rows = np.arange(len(x))
    return x[rows if columns.ndim == 1 else rows[:, None], columns]
