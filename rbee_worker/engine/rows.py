"""Operations on rows whose result for a row depends on that row alone, bit for bit.

This is where batch invariance of sampling is made: elementwise operations, comparisons, integer
sums and maxima are exact, and floating-point sums are done in one fixed order per row. Nothing
here may use a floating-point reduction whose order follows the shape of the whole tensor.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 256  # columns of one scan on devices other than the CPU


def portions(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices of `rows` rows to work on one after the other.

    On the CPU a portion's float64 copy stays in the cache and its memory is reused; elsewhere
    everything is one portion up to the memory that its copies may take.
    """
    values = 1 << 18 if device.type == "cpu" else 1 << 25
    size = max(1, values // width)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def argmax(z: Tensor) -> Tensor:
    """Index of each row's largest value [R]; ties: the lowest index; NaN counts as largest.

    On the CPU numpy's is 25 times faster than torch's; both promise the first of equal maxima.
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

    Which of several equal values at the n-th place is returned, and the order of equal values, is
    not defined: the caller looks for ties. A group's maximum bounds its members, so the n groups
    with the largest maxima hold the n largest values; only those are searched.
    """
    rows, vocab = z.shape
    size = 16 if n <= 128 else 8  # members of a group
    groups = vocab // size
    if groups <= n:
        values, ids = torch.topk(z, n, dim=1)
        return values, ids
    head = z[:, : groups * size].view(rows, size, groups)
    columns = torch.topk(head.amax(dim=1), n, dim=1, sorted=False).indices  # [R, n]
    members = columns[:, None, :].expand(rows, size, n)
    step = torch.arange(size, device=z.device)[None, :, None] * groups
    candidates = torch.cat([head.gather(2, members).flatten(1), z[:, groups * size :]], dim=1)
    rest = torch.arange(groups * size, vocab, device=z.device).expand(rows, -1)
    ids = torch.cat([(members + step).flatten(1), rest], dim=1)
    values, places = torch.topk(candidates, n, dim=1)
    return values, ids.gather(1, places)


def weights(z: Tensor, top: Tensor, temperature: Tensor | None = None) -> Tensor:
    """exp((z - top) / temperature) in float64 [R, n]; `top` [R] float64 is the row's maximum.

    Where the maximum is +inf, tokens at +inf weigh 1 and all others 0.
    """
    x = z.to(torch.float64, copy=True).sub_(top[:, None])
    if bool(torch.isposinf(top).any()):
        x.masked_fill_(x.isnan(), 0.0)  # inf - inf
    if temperature is not None:
        x.div_(temperature[:, None])
    return x.exp_()


def running_sum(w: Tensor) -> Tensor:
    """Sum of each row up to and including each column [R, n].

    On the CPU torch adds one row from left to right; elsewhere its order depends on the number of
    rows, so the sums are doubled block by block in an order that only the column decides.
    """
    return w.cumsum(dim=1) if w.device.type == "cpu" else doubling_sum(w)


def doubling_sum(w: Tensor) -> Tensor:
    """`running_sum` by doubling strides in blocks, then over the blocks' totals."""
    rows, n = w.shape
    blocks = -(-n // _BLOCK)
    x = torch.nn.functional.pad(w, (0, blocks * _BLOCK - n)).view(rows, blocks, _BLOCK)
    stride = 1
    while stride < min(n, _BLOCK):
        x = torch.cat([x[..., :stride], x[..., stride:] + x[..., :-stride]], dim=2)
        stride *= 2
    if blocks > 1:
        before = doubling_sum(x[:, :, -1])
        x = torch.cat([x[:, :1], x[:, 1:] + before[:, :-1, None]], dim=1)
    return x.flatten(1)[:, :n]


def pick(w: Tensor, u: Tensor) -> Tensor:
    """The first column whose running sum exceeds u times the row's total [R]; u [R] in [0, 1).

    A column of weight 0 is never picked.
    """
    if w.device.type == "cpu":  # left-to-right sums never fall, and rise only with a weight
        total = w.cumsum(dim=1)
        target = u[:, None] * total[:, -1:]
        return torch.searchsorted(total, target, right=True)[:, 0].clamp_(max=w.shape[1] - 1)
    total = doubling_sum(w)
    total.masked_fill_(w <= 0, 0.0)  # sums of different trees may differ in the last bit
    target = u * total.amax(dim=1)
    return argmax((total > target[:, None]).to(torch.uint8))
