"""Matrices repacked before the backend exists: while torch is being imported. Torch-free.

What a model will ask for, and in which order, a plan has told (`PlanOps.order`); whoever builds
the model then finds its matrices by the names of the tensors that they stack. A matrix that no
plan could name, because a family makes it of several tensors, is repacked when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from rbee_worker.checkpoint.formats import Named, Packed, TensorInfo, TensorSource
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.matrix import Matrix, hold_all
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.held import taken_as
from rbee_worker.ops.plan import names_of

BATCH_BYTES = 32_000_000  # of the file that threads share, after which its pages may leave memory


class HeldAhead:
    """Matrices of `source`, in `arena`, by the names of their tensors."""

    def __init__(self, source: TensorSource, library: Library, team: Team, arena: Arena) -> None:
        self.library, self.team, self.arena = library, team, arena
        self._source = source
        self._matrices: dict[tuple[str, ...], Matrix] = {}

    def hold(self, order: Iterable[tuple[str, ...]], done: Callable[[int], None]) -> None:
        """Repack the matrices of `order`; done: told the bytes of their tensors so far.

        Those of formats that only torch decodes are left out. Raises as the source's `read`.
        """
        batch: list[tuple[str, ...]] = []
        total, begun = 0, 0
        for names in dict.fromkeys(order):
            infos = [self._source.info(name) for name in names]
            if not all(map(_has_kernel, infos)):
                continue
            batch.append(names)
            total += sum(info.nbytes for info in infos)
            if total - begun >= BATCH_BYTES:
                self._hold(batch)
                done(total)
                batch, begun = [], total
        self._hold(batch)
        done(total)

    def _hold(self, batch: Sequence[tuple[str, ...]]) -> None:
        several = ([self._source.read(name) for name in names] for names in batch)
        made = hold_all(self.library, self.team, self.arena, several)
        self._matrices.update(zip(batch, made, strict=True))
        self._source.release()

    def take(self, parts: Sequence[Packed]) -> Matrix | None:
        """The matrix that stacks `parts`, if it is held."""
        return self._matrices.get(names_of(parts))


class NamedSource:
    """`source`, whose tensors know their names and are read when their data is first looked at:
    a matrix that is held already is not read again."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source

    def names(self) -> list[str]:
        """The names of `source`."""
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        """What `source` says."""
        return self._source.info(name)

    def read(self, name: str) -> Packed:
        """The tensor with its name."""
        return _Unread(self._source, name)

    def release(self) -> None:
        """See `TensorSource.release`."""
        self._source.release()


class _Unread(Named):
    """A tensor that is read each time somebody looks at its data."""

    def __init__(self, source: TensorSource, name: str) -> None:
        info = source.info(name)
        fields = {"format": info.format, "shape": info.shape, "name": name, "_source": source}
        self.__dict__.update(fields)

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """As the file has it."""
        source: TensorSource = self.__dict__["_source"]
        return source.read(self.name).data


def _has_kernel(info: TensorInfo) -> bool:
    return taken_as(info.format) == info.format.lower()
