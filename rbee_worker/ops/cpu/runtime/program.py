"""A recorded program with its memory and all addresses, and its replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rbee_worker.ops.cpu.runtime.native import Args, Library, Native
from rbee_worker.ops.cpu.runtime.recorder import Buf, Call, Recorder, Result, Slot
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.regions import LINE, Words, address, zeros

F32 = npt.NDArray[np.float32]
KEPT_VIEWS = 64  # rows: a decoding step of so many sequences is no short one any more


def finish(
    recorder: Recorder, library: Library, result: Buf, stages: Sequence[Result] = ()
) -> Program:
    """Load the kernels, allocate the arena, resolve every address.

    stages: earlier results that a replay may end with.
    """
    library.load([call.kernel for call in recorder.entries])
    return Program(recorder, library, [*stages, Result(result, len(recorder.entries))])


class Program:
    """A recorded program and its memory.

    names: the kernels in order, for profiles. entries: what the team replays (`instruction.py`).
    nbytes: of the arena.
    """

    def __init__(self, recorder: Recorder, library: Library, results: Sequence[Result]) -> None:
        # the arena is the memory that threads share, then each thread's private memory
        self._shared, private = recorder.sizes
        self._threads, self._each = recorder.threads, private + LINE
        self.nbytes = self._shared + self._threads * self._each
        self._arena = zeros(self.nbytes + LINE)
        self._base = address(self._arena)
        self._keep: list[Args] = []
        self.names = [call.kernel for call in recorder.entries]
        made = [self._instruction(call, library[call.kernel]) for call in recorder.entries]
        self.entries = words(_prefetching(recorder.entries, made))
        at = address(self.entries)
        self._stages = [_Stage(at, result.entries, result.buf) for result in results]

    def _instruction(self, call: Call, kernel: Native) -> Instruction:
        """A call with its addresses; one argument struct for each thread where it uses private
        memory."""
        private = any(isinstance(v, Slot) and v.private for v in call.fields.values())
        structs = []
        for thread in range(self._threads if private else 1):
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
            args_stride=size if private else 0,
            replicated=int(call.replicated),
        )

    def _offset(self, slot: Slot, thread: int = 0) -> int:
        """The offset of a slot in the arena; if it is private, in `thread`'s memory."""
        return slot.offset + (self._shared + thread * self._each if slot.private else 0)

    @property
    def barriers(self) -> int:
        """The number of barriers in a replay of all entries, without the last one."""
        return int(self.entries[:, 2].sum())

    def run(
        self, team: Team, header: int, rows: int, times: list[Words] | None = None, *,
        stage: int = -1,
    ) -> F32:  # fmt: skip
        """Replay one step, to the end or to a stage, and return the first `rows` rows of its
        result: a view that the next replay overwrites, and the same object for the same number of
        rows, up to `KEPT_VIEWS`.

        header: its address. times: the clock at each entry is appended to it.
        """
        to = self._stages[stage]
        if times is None:
            team.replay(to.address, to.count, header)
        else:
            times.append(np.zeros(to.count + 1, np.int64))
            team.replay(to.address, to.count, header, address(times[-1]))
        view = to.views.get(rows)
        if view is None:
            view = self.view(to.result, rows)
            if rows <= KEPT_VIEWS:
                to.views[rows] = view
        return view

    def view(self, buf: Buf, rows: int) -> F32:
        """The first `rows` rows of an activation [rows, width], as an array in the arena."""
        return np.ndarray(
            (rows, buf.width),
            np.float32,
            buffer=self._arena,
            offset=self._offset(buf.slot),
            strides=(4 * buf.stride, 4),
        )


@dataclass(frozen=True)
class _Stage:
    """How one result is computed. address, count: the entries to replay. views: of the result,
    cached by rows as far as steps are short; to make one right after a step costs 0.1 ms, as the
    step's weights have pushed everything else out of the caches."""

    address: int
    count: int
    result: Buf
    views: dict[int, F32] = field(default_factory=dict)


def _prefetching(calls: Sequence[Call], entries: Sequence[Instruction]) -> list[Instruction]:
    """The entries, each with the weights that the next product after it reads."""
    told: list[Instruction] = []
    following: dict[str, int] = {}
    for call, entry in zip(reversed(calls), reversed(entries), strict=True):
        if call.product is not None:
            following = {
                "weights": address(call.product.data),
                "groups": call.dealt,
                "group_bytes": call.product.data.nbytes // call.product.groups,
            }
        told.append(entry._replace(**following))
    return told[::-1]
