"""Named float tensors of a safetensors file, for the networks beside the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import FLOATS
from rbee_worker.checkpoint.safetensors import SafetensorsFile
from rbee_worker.errors import CheckpointError, UnsupportedModel

F32 = NDArray[np.float32]


class Tensors:
    """A file's tensors by name; `left` says which were not asked for."""

    def __init__(self, path: Path) -> None:
        """Raises BadReference, CheckpointError."""
        self.path = path
        self._file = SafetensorsFile.open(path)
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._file.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises CheckpointError if there is no such tensor."""
        self._known(name)
        return self._file.tensors[name].shape

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> F32:
        """A tensor's values in float32. shape: what it must be. Raises CheckpointError,
        UnsupportedModel."""
        self._known(name)
        self._asked.add(name)
        found = self._file.tensors[name]
        if shape is not None and found.shape != shape:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has shape {list(found.shape)}, not {list(shape)}.",
                fix="its config belongs to another model; download both again.",
            )
        if found.format not in FLOATS:
            raise UnsupportedModel(
                f"{self.path}: tensor {name!r} is in {found.format}; this part is read in floats.",
                fix="use a file with F32, F16 or BF16.",
            )
        return np.ascontiguousarray(decode(self._file.read(name)).reshape(found.shape))

    @property
    def left(self) -> list[str]:
        """Names that were not asked for."""
        return sorted(set(self._file.tensors) - self._asked)

    def _known(self, name: str) -> None:
        if name not in self._file.tensors:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is missing.", fix="download the file again."
            )
