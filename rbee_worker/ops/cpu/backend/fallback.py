"""An operation without a kernel: the program is left, `reference` computes, the result is put back.

What the result looks like is found by computing it once, on zeros, for the one row of a sequence
that is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rbee_worker.ops import Weight
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.runtime.program import Program
from rbee_worker.ops.cpu.runtime.recorder import Buf, Slot

if TYPE_CHECKING:
    from rbee_worker.ops.cpu.backend.ops import CpuOps


@dataclass(frozen=True)
class _View:
    """An activation as an entry remembers it: a handle would keep its memory from being reused."""

    slot: Slot
    width: int
    stride: int


class _Step:
    """Stands for the batch of the step."""


def fall_back(ops: CpuOps, name: str, *args: Any, **named: Any) -> Any:
    """Record `reference`'s operation `name`. Returns handles in place of its tensors."""
    run = getattr(ops.reference, name)
    frozen = [_freeze(ops, a) for a in args]
    frozen_named = {k: _freeze(ops, a) for k, a in named.items()}

    def compute(batch: Batch, tensor: Callable[[_View], Tensor]) -> Any:
        return run(
            *(_thaw(a, batch, tensor) for a in frozen),
            **{k: _thaw(a, batch, tensor) for k, a in frozen_named.items()},
        )

    sample = compute(ops.now.probe, lambda view: torch.zeros(1, view.width))
    several = isinstance(sample, tuple)
    results = [ops.now.recorder.buffer(t.shape[1]) for t in (sample if several else (sample,))]
    views = [_View(r.slot, r.width, r.stride) for r in results]

    def entry(program: Program, batch: Batch | None, rows: int) -> None:
        assert batch is not None, f"{name} cannot run without a batch"
        out = compute(batch, lambda v: program.view(v.slot, v.width, v.stride, rows))
        for view, value in zip(views, out if several else (out,), strict=True):
            program.view(view.slot, view.width, view.stride, rows).copy_(value)

    ops.now.recorder.python(entry, name)
    return tuple(results) if several else results[0]


def _freeze(ops: CpuOps, value: Any) -> Any:
    if isinstance(value, Buf):
        return _View(value.slot, value.width, value.stride)
    if isinstance(value, Batch):
        return _Step()
    if isinstance(value, Weight):
        return ops.reference.matrix(value.data.packed)
    if isinstance(value, list | tuple):
        return [_freeze(ops, v) for v in value]
    return value


def _thaw(value: Any, batch: Batch, tensor: Callable[[_View], Tensor]) -> Any:
    if isinstance(value, _View):
        return tensor(value)
    if isinstance(value, _Step):
        return batch
    if isinstance(value, list):
        return [_thaw(v, batch, tensor) for v in value]
    return value
