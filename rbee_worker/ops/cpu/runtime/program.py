"""A recorded program with its memory and every address in it, and how it is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.runtime.native import Args, Library, Native
from rbee_worker.ops.cpu.runtime.recorder import Buf, Call, Python, Recorder, Result, Slot
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.regions import LINE, Words, zeros


def finish(
    recorder: Recorder, library: Library, result: Buf, stages: Sequence[Result] = ()
) -> Program:
    """Load the kernels, allocate the arena, resolve every address.

    stages: results on the way that a replay may end with.
    """
    library.load([e.kernel for e in recorder.entries if isinstance(e, Call)])
    return Program(recorder, library, [*stages, Result(result, len(recorder.entries))])


class Program:
    """A recorded program and its memory. `names`: the kernels in order, for profiles."""

    def __init__(self, recorder: Recorder, library: Library, results: Sequence[Result]) -> None:
        self._own, own = recorder.sizes  # the threads' own memory comes last
        self._threads, self._apart = recorder.threads, own + LINE
        size = self._own + self._threads * self._apart
        self._arena = zeros(size + LINE)
        self._base = int(self._arena.ctypes.data)
        self._floats = torch.from_numpy(self._arena[: (size + LINE) // 4 * 4].view(np.float32))
        self._keep: list[Args] = []
        self.fallbacks = tuple(recorder.fallbacks)
        self.names: list[str] = []
        self.parts: list[Words | Python] = []
        ends: dict[int, tuple[int, int]] = {}  # entries -> (whole parts, entries of the next one)
        calls: list[tuple[Call, Instruction]] = []
        for number, entry in enumerate(recorder.entries):
            ends[number] = len(self.parts), len(calls)
            if not isinstance(entry, Call):
                self._close(calls)
                self.parts.append(entry)
                continue
            calls.append((entry, self._instruction(entry, library[entry.kernel])))
            self.names.append(entry.kernel)
        ends[len(recorder.entries)] = len(self.parts), len(calls)
        self._close(calls)
        self._ways = [self._way(result, *ends[result.entries]) for result in results]
        self.nbytes = size

    def _instruction(self, call: Call, kernel: Native) -> Instruction:
        """A call with its addresses; where memory of the threads' own is meant, args for each."""
        own = any(isinstance(v, Slot) and v.own for v in call.fields.values())
        structs = []
        for thread in range(self._threads if own else 1):
            values = {
                k: self._base + self._offset(v, thread) if isinstance(v, Slot) else v
                for k, v in call.fields.items()
            }
            structs.append(kernel.pack(**values))
        size = structs[0].memory.nbytes
        args = Args(np.concatenate([a.memory for a in structs]), structs[0].keep)
        self._keep.append(args)
        return Instruction(
            kernel.address,
            args.address,
            int(call.barrier),
            apart=size if own else 0,
            alone=int(call.own),
        )

    def _offset(self, slot: Slot, thread: int = 0) -> int:
        """Of a slot in the arena; of the threads' own ones, `thread`'s."""
        return slot.offset + (self._own + thread * self._apart if slot.own else 0)

    def _close(self, calls: list[tuple[Call, Instruction]]) -> None:
        """A native part ends. Each entry is told what the next product from it on reads."""
        entries: list[Instruction] = []
        following: dict[str, int] = {}
        for call, entry in reversed(calls):
            if call.ahead is not None:
                following = {
                    "weights": int(call.ahead.data.ctypes.data),
                    "groups": call.early,
                    "group_bytes": call.ahead.data.nbytes // call.ahead.groups,
                }
            entries.append(entry._replace(**following))
        if entries:
            self.parts.append(words(entries[::-1]))
            calls.clear()

    def _way(self, result: Result, whole: int, more: int) -> _Way:
        """All before a result: `whole` parts and `more` entries of the one after them."""
        parts = self.parts[: whole + (more > 0)]
        runs: list[tuple[int, int] | Python] = [
            (int(p.ctypes.data), len(p)) if isinstance(p, np.ndarray) else p for p in parts
        ]
        last = runs[-1] if more else None
        if isinstance(last, tuple):
            runs[-1] = last[0], more
        buf = result.buf
        return _Way(runs, (buf.slot, buf.width, buf.stride))

    @property
    def barriers(self) -> int:
        """Barriers that one replay passes, the last ones of its parts not counted."""
        return sum(int(p[:, 2].sum()) for p in self.parts if isinstance(p, np.ndarray))

    def run(
        self, team: Team, header: int, batch: Batch | None, rows: int,
        times: list[Words] | None = None, *, stage: int = -1,
    ) -> Tensor:  # fmt: skip
        """One step, to the end or to a stage: the result's first `rows` rows, a view that the next
        replay overwrites, and the same tensor for as many rows.

        header: its address. times: filled with the clock at each entry of each native part.
        """
        way = self._ways[stage]
        for part in way.runs:
            if not isinstance(part, tuple):
                part(self, batch, rows)
            elif times is None:
                team.replay(*part, header)
            else:
                times.append(np.zeros(part[1] + 1, np.int64))
                team.replay(*part, header, times[-1].ctypes.data)
        view = way.views.get(rows)
        if view is None:
            view = way.views[rows] = self.view(*way.place, rows)
        return view

    def view(self, slot: Slot, width: int, stride: int, rows: int) -> Tensor:
        """[rows, width] of the arena as a tensor."""
        return self._floats.as_strided((rows, width), (stride, 1), self._offset(slot) // 4)


@dataclass(frozen=True)
class _Way:
    """What is run for a result. runs: native entries (address, count), or Python. views: by rows,
    made once: with a step's weights fresh in the caches, making a tensor takes 0.1 ms."""

    runs: list[tuple[int, int] | Python]
    place: tuple[Slot, int, int]
    views: dict[int, Tensor] = field(default_factory=dict)
