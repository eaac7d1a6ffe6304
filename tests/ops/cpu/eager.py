"""Operations of `CpuOps` on torch tensors, to be compared with those of the reference: each call is
recorded for its rows and replayed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Header, Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.program import finish
from rbee_worker.ops.cpu.runtime.recorder import Buf, Recorder
from rbee_worker.ops.cpu.runtime.recording import Recording
from rbee_worker.ops.cpu.runtime.state import STATE_DTYPES
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa, paged
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup
from tests.ops.cpu.bridge import array, arrays

KINDS = {dtype: kind for kind, dtype in STATE_DTYPES.items()}
LONGEST = 2048


def groups_of(batch: Batch | None, block: int) -> tuple[tuple[StateGroup, ...], str]:
    """State groups as the shapes of a batch's caches tell, and the caches' kind."""
    groups, kind = [], "f32"
    for state in batch.state if batch is not None else ():
        if isinstance(state, FixedState):
            shapes = tuple((name, tensor.shape[2:]) for name, tensor in state.tensors.items())
            (layers,) = {tensor.shape[0] for tensor in state.tensors.values()}
            groups.append(StateGroup(Fixed(shapes), layers))
            continue
        kind = KINDS[state.k.dtype]
        extra = 4 if kind == "i8" else 0
        v_dim = state.v.shape[-1] - (extra if state.v.shape[-1] else 0)
        spec = PagedKV(state.k.shape[3], state.k.shape[-1] - extra, v_dim)
        groups.append(StateGroup(spec, state.k.shape[0]))
    return tuple(groups), kind


class Eager:
    """`eager.rms_norm(x, ...)` and so on, as `ReferenceOps` has them."""

    def __init__(self, name: str = "", threads: int = 2, *, exact: bool = False) -> None:
        self.library = Library(isa.choose(name))
        self.team = Team(self.library, threads)
        self.ops = CpuOps(self.library, self.team, exact=exact)
        self.matrix, self.stack = self.ops.matrix, self.ops.stack
        self.recorder: Recorder | None = None  # of the last operation

    def vector(self, parts: list[Packed]) -> Tensor:
        """For both backends: the memory that the kernels get, padding behind it."""
        return torch.from_numpy(self.ops.vector(parts))

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: self.run(name, args, named)

    def run(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Record operation `name` with every two-dimensional tensor as an activation; replay it.

        Integers go in as the bits of int32 and come out as such: view the result as torch.int32.
        """
        self.ops.weights_done()
        args = tuple(arrays(a) if isinstance(a, Batch) else a for a in args)
        batch = next((a for a in args if isinstance(a, Batch)), None)
        first = args[0][0] if isinstance(args[0], list) else args[0]
        n = (batch.tokens if batch else first).shape[0]
        states = batch.state if batch is not None else ()
        block = next((s.k.shape[2] for s in states if isinstance(s, PagedState)), paged.KEYS)
        groups, kind = groups_of(batch, block)
        recorder = Recorder(max(n, 1), self.team.threads)
        recording = Recording(recorder, groups, kind, block, LONGEST)
        self.ops.recording, self.recorder = recording, recorder
        inputs: list[tuple[Buf, Tensor]] = []

        def handle(value: Any) -> Any:
            if isinstance(value, list):
                return [handle(v) for v in value]
            if isinstance(value, Tensor) and value.ndim == 2:
                value = value if value.is_floating_point() else value.int().view(torch.float32)
                inputs.append((recorder.buffer(value.shape[1]), value))
                return inputs[-1][0]
            return array(value)

        named = {key: array(value) for key, value in named.items()}
        self.ops.weights_done()
        result = getattr(self.ops, name)(*map(handle, args), **named)
        several = isinstance(result, tuple)
        results = result if several else (result,)
        program = finish(recorder, self.library, results[0])
        for buf, value in inputs:
            np.copyto(program.view(buf, n), value.numpy())
        header = Header(groups, recording.ropes, Shape(max(n, 1), 1, LONGEST, block, kind))
        address = header.rows(n) if batch is None else header.write(batch)
        program.run(self.team, address, n)
        self.ops.recording = None
        out = [torch.from_numpy(program.view(r, n).copy()) for r in results]
        return tuple(out) if several else out[0]

    def close(self) -> None:
        """End the threads."""
        self.team.close()
