"""Whole prompts by torch's attention against numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rbee_worker.ops.cuda.kernels.attention.prompts import attend_prompts
from tests.ops.cuda.attention.cases import BOUNDS, DEVICE, attention, error


@pytest.mark.parametrize("lengths", [[7, 7], [5, 9, 1], [12]], ids=str)
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_prompts(lengths: list[int], kv_heads: int) -> None:
    heads, dim, rows = 4, 16, sum(lengths)
    draw = torch.Generator().manual_seed(0)
    width = (heads + 2 * kv_heads) * dim
    packed = torch.randn((rows, width), generator=draw).half().to(DEVICE)
    parts = packed.split([heads * dim, kv_heads * dim, kv_heads * dim], 1)
    got = attend_prompts(*parts, lengths, heads=heads, scale=0.3)
    q, k, v = (part.double().cpu().numpy().reshape(rows, -1, dim) for part in parts)
    expected = []
    first = 0
    for length in lengths:
        one = slice(first, first + length)
        expected.append(attention(q[one], k[one], v[one], np.arange(length), 0.3))
        first += length
    assert error(got, np.concatenate(expected).reshape(rows, -1)) < BOUNDS[torch.float16]
