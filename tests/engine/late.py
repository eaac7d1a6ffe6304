"""A backend that computes late, around one that computes at once.

Whatever is handed over is done in order, but only when somebody waits for it: a result is there a
step after it was asked for, and whoever changes an array or asks too early is found out. What a
step draws goes into the next one on the device (`StepNumbers.takes`). A step's logits are nan as
soon as the step after the next begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from torch import Tensor

from rbee_worker.ops.batch import Batch, StepNumbers
from rbee_worker.ops.sampling import DrawParams, Edits
from rbee_worker.types import TokenLogprob


class Device:
    """What is still to be done, in order; the last draws; the logits of the last steps."""

    def __init__(self) -> None:
        self.todo: deque[Callable[[], None]] = deque()
        self.drawn: list[int] = []
        self.logits: deque[list[Tensor]] = deque([[], []])
        self.waiting = self.most_waiting = 0  # steps handed over and not begun
        self.taken = 0  # tokens that came from the step before

    def later(self, work: Callable[[], None]) -> None:
        """Hand something over."""
        self.todo.append(work)

    def finish(self) -> None:
        """Do everything that is still to be done."""
        while self.todo:
            self.todo.popleft()()

    def begin(self) -> None:
        """A step begins: logits of the one before the last are overwritten."""
        for logits in self.logits.popleft():
            logits.fill_(float("nan"))
        self.logits.append([])
        self.waiting -= 1


class Late:
    """What the device computes. `shape` is known before. An error is raised to whoever waits."""

    def __init__(self, device: Device, compute: Callable[[], Any], *shape: int) -> None:
        self.shape = shape
        self._device, self._compute = device, compute
        self._done = False
        self._error: Exception | None = None
        device.later(self._run)

    def _run(self) -> None:
        try:
            self._value = self._compute()
        except Exception as error:
            self._error = error
        self._done = True

    @property
    def value(self) -> Any:
        """For what the device does later."""
        assert self._done
        if self._error is not None:
            raise self._error
        return self._value

    def host(self) -> Any:
        """For the host, which waits."""
        while not self._done:
            self._device.todo.popleft()()
        return self.value

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.host(), dtype)

    def __getitem__(self, index: Any) -> Any:
        """Of rows, later; of one row, now."""
        if isinstance(index, int):
            self._device.finish()
            return self.value[index]
        rows = len(range(self.shape[0])[index]) if isinstance(index, slice) else len(index)
        return Late(self._device, lambda: self.value[index], rows, *self.shape[1:])


class LateModel:
    """`Executable`."""

    def __init__(self, model: Any, device: Device) -> None:
        self.groups, self.vocab_size, self.context = model.groups, model.vocab_size, model.context
        self._model, self._device = model, device

    def hidden(self, batch: Batch) -> Late:
        return Late(self._device, lambda: self._model.hidden(batch), len(batch.tokens), 1)

    def head(self, rows: Late) -> Late:
        return self._logits(lambda: self._model.head(rows.value), rows.shape[0])

    def logits(self, batch: Batch) -> Late:
        return self._logits(lambda: self._model.logits(batch), len(batch.sample_rows))

    def _logits(self, compute: Callable[[], Tensor], rows: int) -> Late:
        def kept() -> Tensor:
            logits = compute()
            for before in self._device.logits[-1]:
                before.fill_(float("nan"))  # of the same step: the next call's are in their place
            self._device.logits[-1] = [logits]
            return logits

        return Late(self._device, kept, rows, self.vocab_size)


class LateMemory:
    """`StateMemory`."""

    def __init__(self, memory: Any, device: Device) -> None:
        self._memory, self.device = memory, device
        self.nbytes = memory.nbytes

    def stage(self, numbers: StepNumbers) -> Batch:
        own = deepcopy(numbers)
        batch: Batch = self._memory.stage(own)
        assert own.takes is not None
        takes, device = own.takes.tolist(), self.device
        assert len(takes) == len(batch.tokens)

        def take() -> None:
            device.begin()
            for row, draw in enumerate(takes):
                if draw >= 0:  # where there is no id, this row's result will be dropped
                    known = draw < len(device.drawn)
                    batch.tokens[row] = max(device.drawn[draw], 0) if known else 0

        device.later(take)
        device.waiting += 1
        device.most_waiting = max(device.most_waiting, device.waiting)
        device.taken += sum(draw >= 0 for draw in takes)
        return batch

    def clear(self, slots: Sequence[int]) -> None:
        self.device.later(lambda: self._memory.clear(slots))

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        self.device.later(lambda: self._memory.copy(slots))


class LateTable:
    """`BiasTable`."""

    counted = "host"

    def __init__(self, table: Any, device: Device) -> None:
        self._table, self._device = table, device

    def clear(self) -> None:
        self._device.later(self._table.clear)

    def write(self, *args: Any) -> None:
        self._device.later(lambda: self._table.write(*args))

    def add(self, new: Any) -> None:
        self._device.later(lambda: self._table.add(new))

    def count(self, changes: Any) -> None:
        self._device.later(lambda: self._table.count(changes))

    def values(self, slot: int, n: int) -> list[list[float]]:
        self._device.finish()
        found: list[list[float]] = self._table.values(slot, n)
        return found

    def apply(self, logits: Late, edits: Edits) -> Callable[[Late], None]:
        edited = Late(self._device, lambda: self._table.apply(logits.value, edits))

        def undo(same: Late) -> None:
            assert same is logits
            Late(self._device, lambda: edited.value(logits.value))

        return undo


class LateSampling:
    """`Sampling`."""

    def __init__(self, sampling: Any, device: Device) -> None:
        self._sampling, self._device = sampling, device

    def greedy(self, logits: Late) -> Late:
        return self._drawn(lambda: self._sampling.greedy(logits.value))

    def choose(self, logits: Late, params: Sequence[DrawParams | None], masks: Any = None) -> Late:
        assert len(params) == logits.shape[0]
        return self._drawn(lambda: self._sampling.choose(logits.value, params, masks))

    def _drawn(self, draw: Callable[[], Any]) -> Late:
        def drawn() -> list[int]:
            self._device.drawn = []
            self._device.drawn = draw().host()
            return self._device.drawn

        return Late(self._device, drawn)

    def score(self, logits: Late, *args: Any) -> list[TokenLogprob]:
        self._device.finish()
        found: list[TokenLogprob] = self._sampling.score(logits.value, *args)
        return found

    def bias_table(self, max_seqs: int) -> LateTable:
        return LateTable(self._sampling.bias_table(max_seqs), self._device)
