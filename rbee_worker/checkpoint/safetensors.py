"""Safetensors models: one file, or several joined by an index. Data is a view of the mapped file.

This module knows the container, not what the tensors mean.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from rbee_worker.checkpoint.formats import Packed, TensorInfo, refuse_unreadable
from rbee_worker.checkpoint.mapping import map_file, release
from rbee_worker.checkpoint.reading import inside
from rbee_worker.checkpoint.safetensors_header import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    STRING,
    StoredTensor,
    damaged,
    json_string,
    read_header,
    strict_json,
    utf8,
)
from rbee_worker.checkpoint.weight_files import INDEX, SINGLE
from rbee_worker.errors import CheckpointError

MAX_INDEX_BYTES = 32 << 20

_PAIR = re.compile(rf"\s*+({STRING})\s*+:\s*+({STRING})\s*+(,|\}})")
_MAP = re.compile(r'"weight_map"\s*:\s*\{')


@dataclass(frozen=True)
class SafetensorsFile:
    """One open file."""

    path: Path
    tensors: dict[str, StoredTensor]
    _data: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Map the file and check its whole header, without reading tensor data.

        Raises BadReference when it cannot be opened, CheckpointError when it is damaged.
        """
        data = map_file(path, "a safetensors file", 10)
        n = int.from_bytes(data[:8], "little")
        if n > len(data) - 8:
            raise damaged(
                path, f"the header length is {n}, but only {len(data) - 8} bytes follow it"
            )
        if n > MAX_HEADER_BYTES:
            raise damaged(path, f"a header of {n} bytes; at most {MAX_HEADER_BYTES} are read")
        return cls(path, read_header(path, data[8 : 8 + n], len(data)), data)

    def read(self, name: str) -> Packed:
        """The tensor as a read-only view of the mapped file, which the view keeps alive.

        Raises KeyError for an unknown name, UnsupportedModel for a dtype that has no decoder.
        """
        refuse_unreadable(self.tensors[name].format, name, str(self.path))
        return self.view(name)

    def view(self, name: str) -> Packed:
        """Like `read`, but for any dtype: the caller interprets the bytes."""
        t = self.tensors[name]
        rows = prod(t.shape[:-1])
        data = np.frombuffer(self._data, np.uint8, t.nbytes, t.offset)
        return Packed(data.reshape(rows, t.nbytes // max(rows, 1)), t.format, t.shape)

    def release(self) -> None:
        """Let the mapped pages leave memory; they are read from the file again when needed."""
        release(self._data)


class SafetensorsSource:
    """The tensors of a directory, from one file or several, under one set of names.

    index: tensor name -> the file to take it from; decides where several files have the tensor.
    """

    def __init__(
        self, files: list[SafetensorsFile], index: Mapping[str, str] | None = None
    ) -> None:
        self.files = files
        self._file_of: dict[str, SafetensorsFile] = {}
        decided = index or {}
        for file in files:
            for name in file.tensors:
                if decided.get(name, file.path.name) != file.path.name:
                    continue
                other = self._file_of.setdefault(name, file)
                if other is not file:
                    raise damaged(file.path, f"tensor {name!r} is also in {other.path.name}")

    def names(self) -> list[str]:
        return list(self._file_of)

    def info(self, name: str) -> TensorInfo:
        t = self._file_of[name].tensors[name]
        return TensorInfo(t.format, t.shape, t.nbytes)

    def read(self, name: str) -> Packed:
        return self._file_of[name].read(name)

    def view(self, name: str) -> Packed:
        """See `SafetensorsFile.view`."""
        return self._file_of[name].view(name)

    def release(self) -> None:
        """See `SafetensorsFile.release`."""
        for file in self.files:
            file.release()


def open_directory(path: Path) -> tuple[SafetensorsSource, tuple[str, ...]]:
    """The tensors of a model directory, and notes on the files that are not used.

    Raises CheckpointError if there are none, if a file is damaged or if a shard is missing.
    """
    found = sorted(path.glob("*.safetensors"))
    if (path / SINGLE).is_file():
        used = [path / SINGLE]
    elif (path / INDEX).is_file():
        return _sharded(path, found)
    elif len(found) == 1:
        used = found
    elif found:
        raise CheckpointError(
            f"{path}: {len(found)} safetensors files and no {INDEX} that joins them.",
            fix=f"fetch {INDEX} as well",
        )
    else:
        raise _none(path)
    files = [SafetensorsFile.open(inside(path, file)) for file in used]
    return SafetensorsSource(files), _unused(found, used)


def _sharded(path: Path, found: list[Path]) -> tuple[SafetensorsSource, tuple[str, ...]]:
    index = inside(path, path / INDEX)
    wanted = _weight_map(index)
    for name in dict.fromkeys(wanted.values()):
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise damaged(index, f"names the file {name[:80]!r}, which is not a plain file name")
        if not name.endswith(".safetensors"):
            raise damaged(index, f"names the file {name[:80]!r}, which is not a safetensors file")
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path}: the file {name}, which {INDEX} names, is missing.",
                fix="fetch the missing file (the download was incomplete)",
            )
    used = [path / name for name in dict.fromkeys(wanted.values())]
    files = {file.name: SafetensorsFile.open(inside(path, file)) for file in used}
    for tensor, name in wanted.items():
        if tensor not in files[name].tensors:
            raise damaged(index, f"says that tensor {tensor!r} is in {name}, which lacks it")
    return SafetensorsSource(list(files.values()), wanted), _unused(found, used)


def _weight_map(index: Path) -> dict[str, str]:
    """The index's map from tensor name to file name, read pair by pair."""
    size = index.stat().st_size
    if size > MAX_INDEX_BYTES:
        raise damaged(index, f"{size} bytes; at most {MAX_INDEX_BYTES} are read")
    text = utf8(index, index.read_bytes())
    start = _MAP.search(text)
    if start is None:
        raise damaged(index, "has no weight_map")
    names: dict[str, str] = {}
    shared: dict[str, str] = {}
    at, more = start.end(), True
    while more:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise damaged(index, f"is not a valid index near character {at}")
        tensor, name = json_string(index, pair[1]), json_string(index, pair[2])
        if tensor in names:
            raise damaged(index, f"names tensor {tensor!r} twice")
        names[tensor] = shared.setdefault(name, name)
        if len(names) > MAX_TENSORS:
            raise damaged(index, f"names more than {MAX_TENSORS} tensors")
        at, more = pair.end(), pair[3] == ","
    # The text around the map must be valid JSON too, with the map at its top level.
    around = strict_json(index, f"{text[: start.end() - 1]}{{}}{text[at:]}")
    if not isinstance(around, dict) or around.get("weight_map") != {}:
        raise damaged(index, "has no weight_map at its top level")
    return names


def _unused(found: list[Path], used: list[Path]) -> tuple[str, ...]:
    return tuple(f"{file.name} is not part of the model" for file in found if file not in used)


def _none(path: Path) -> CheckpointError:
    pickles = [f.name for ext in ("bin", "pt", "pth", "ckpt") for f in path.glob(f"*.{ext}")]
    if pickles:
        return CheckpointError(
            f"{path}: holds only pickled weights ({pickles[0]}), which can run code when read.",
            fix="use a safetensors version of the model (convert it with save_pretrained)",
        )
    ggufs = [f.name for f in path.glob("*.gguf")]
    if ggufs:
        return CheckpointError(
            f"{path}: a directory of GGUF files.", fix=f"name the file: {path / sorted(ggufs)[0]}"
        )
    return CheckpointError(
        f"{path}: holds no safetensors file.", fix="give a model directory or a .gguf file"
    )
