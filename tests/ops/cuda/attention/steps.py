"""One step of decoding by `attend_decode`, and what numpy float64 makes of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from rbee_worker.ops.cuda.kernels.attention.attend_decode import attend_decode
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from tests.ops.cuda.attention.cases import BLOCK, BOUNDS, DEVICE, Case, attention, error
from tests.ops.cuda.attention.packed import Before


class Step:
    """One decode step of a case: the last key of each sequence is the new one, whose place in the
    cache is poisoned until the step writes it."""

    def __init__(self, case: Case, kind: Before) -> None:
        self.case = case
        self.before = copy.copy(kind)
        batch = len(case.lens)
        self.before.draw(batch, case.k_dim)
        width = case.heads * case.k_dim + case.kv_heads * (case.k_dim + case.v_dim)
        draw = torch.Generator().manual_seed(9)
        self.qkv = torch.randn((batch, width), generator=draw).to(case.dtype).to(DEVICE)
        block = [case.table[b, (n - 1) // BLOCK].item() for b, n in enumerate(case.lens)]
        slots = [at * BLOCK + (n - 1) % BLOCK for at, n in zip(block, case.lens, strict=True)]
        self.slots = torch.tensor(slots, device=DEVICE)
        for slot in slots:
            case.k[slot // BLOCK, slot % BLOCK] = float("nan")
            case.v[slot // BLOCK, slot % BLOCK] = float("nan")
        dims = (case.heads, case.kv_heads, case.k_dim, case.v_dim)
        self.q, self.k, self.v = self.before.parts(self.qkv, *dims)

    def expected(self) -> Any:
        case = self.case
        rows = []
        for b, n in enumerate(case.lens):
            keys = np.concatenate([case.keys[b][:-1], self.k[b : b + 1]])
            values = np.concatenate([case.values[b][:-1], self.v[b : b + 1]])
            at = np.array([n - 1])
            q = self.q[b : b + 1]
            rows.append(attention(q, keys, values, at, case.k_dim**-0.5, **case.options))
        return np.concatenate(rows).reshape(len(rows), -1)

    def run(self, **more: Any) -> torch.Tensor:
        case = self.case
        return attend_decode(
            self.qkv, case.k, case.v, case.table, case.kv_lens, self.slots, self.before.angles,
            **{
                "workspace": Workspace(DEVICE),
                "longest_keys": max(case.lens),
                "heads": case.heads,
                "kv_heads": case.kv_heads,
                "k_dim": case.k_dim,
                "scale": case.k_dim**-0.5,
                **self.before.arguments(),
                **case.options,
                **more,
            },
        )  # fmt: skip

    def check(self, **more: Any) -> None:
        bound = BOUNDS[self.case.dtype]
        got = self.run(**more)
        assert got.dtype == self.case.dtype
        assert error(got, self.expected()) < bound
        block, inside = self.slots // BLOCK, self.slots % BLOCK
        assert error(self.case.k[block, inside].float(), self.k) < bound
        assert error(self.case.v[block, inside].float(), self.v) < bound
