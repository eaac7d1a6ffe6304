"""Safetensors: one file or a sharded index, read by its header alone; data is a view of the file.

Knows the container, not what the tensors mean. The header is read entry by entry and each entry is
checked before the next, so a hostile header fails early and cheaply.
Format: huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rbee_worker.checkpoint.formats import FORMATS, Packed, TensorInfo, refuse_unreadable
from rbee_worker.checkpoint.mapping import map_file, release
from rbee_worker.checkpoint.reading import inside
from rbee_worker.checkpoint.weight_files import INDEX, SINGLE
from rbee_worker.errors import CheckpointError

MAX_HEADER_BYTES = 16 << 20
MAX_ENTRY_BYTES = 4 << 10
MAX_METADATA_BYTES = 4 << 20
MAX_INDEX_BYTES = 32 << 20
MAX_TENSORS = 1 << 17
MAX_DIMENSIONS = 8

_REFETCH = "download the file again (it is damaged or was cut short)"

# A JSON string; an object without objects inside; what stands between two members.
# (`*+` and `++` never backtrack: time stays linear in the header.)
_STRING = r'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_OBJECT = rf'\{{(?:{_STRING}|[^"{{}}]++)*+\}}'
# The safetensors library takes null for metadata that are not there.
_ENTRY = re.compile(rf"\s*+({_STRING})\s*+:\s*+({_OBJECT}|null)\s*+(,|\}})")
_PAIR = re.compile(rf"\s*+({_STRING})\s*+:\s*+({_STRING})\s*+(,|\}})")
_EMPTY = re.compile(r"\s*\{\s*\}\s*")
_MAP = re.compile(r'"weight_map"\s*:\s*\{')

# Names that differ from ours; every other dtype has the name of its format.
_DTYPES = {"F8_E4M3FN": "F8_E4M3"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. offset: from the start of the file."""

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class SafetensorsFile:
    """One open file."""

    path: Path
    tensors: dict[str, StoredTensor]
    _data: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Map the file and check its whole header; no tensor data is touched.

        Raises BadReference when it cannot be opened, CheckpointError when it is damaged.
        """
        data = map_file(path, "a safetensors file", 10)
        n = int.from_bytes(data[:8], "little")
        if n > len(data) - 8:
            raise _bad(path, f"the header says {n} bytes, the file has {len(data) - 8} after it")
        if n > MAX_HEADER_BYTES:
            raise _bad(path, f"a header of {n} bytes; at most {MAX_HEADER_BYTES} are read")
        return cls(path, _directory(path, data[8 : 8 + n], 8 + n, len(data)), data)

    def read(self, name: str) -> Packed:
        """A view of the tensor in the mapped file (read-only, kept alive by the view).

        Raises KeyError for an unknown name, UnsupportedModel for a dtype that nothing decodes.
        """
        refuse_unreadable(self.tensors[name].format, name, str(self.path))
        return self.view(name)

    def view(self, name: str) -> Packed:
        """The same for any dtype: bytes that the caller makes sense of."""
        t = self.tensors[name]
        rows = prod(t.shape[:-1])
        data = np.frombuffer(self._data, np.uint8, t.nbytes, t.offset)
        return Packed(data.reshape(rows, t.nbytes // max(rows, 1)), t.format, t.shape)

    def release(self) -> None:
        """Mapped pages may leave memory; they come back from the file when they are read."""
        release(self._data)


class SafetensorsSource:
    """The tensors of a directory, from one file or many, under one set of names.

    index: name -> the file that it is taken from, where several have it.
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
                    raise _bad(file.path, f"tensor {name!r} is also in {other.path.name}")

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
    """The tensors of a model directory, and notes on files that were left alone.

    Raises CheckpointError when there are none, when they are damaged or when a shard is missing.
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
            raise _bad(index, f"names the file {name[:80]!r}, which is not a plain file name")
        if not name.endswith(".safetensors"):
            raise _bad(index, f"names the file {name[:80]!r}, which is not a safetensors file")
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path}: the file {name}, which {INDEX} names, is missing.",
                fix="fetch the missing file (the download was incomplete)",
            )
    used = [path / name for name in dict.fromkeys(wanted.values())]
    files = {file.name: SafetensorsFile.open(inside(path, file)) for file in used}
    for tensor, name in wanted.items():
        if tensor not in files[name].tensors:
            raise _bad(index, f"says that tensor {tensor!r} is in {name}, which lacks it")
    return SafetensorsSource(list(files.values()), wanted), _unused(found, used)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name, read pair by pair."""
    size = index.stat().st_size
    if size > MAX_INDEX_BYTES:
        raise _bad(index, f"{size} bytes; at most {MAX_INDEX_BYTES} are read")
    text = _text(index, index.read_bytes())
    start = _MAP.search(text)
    if start is None:
        raise _bad(index, "has no weight_map")
    names: dict[str, str] = {}
    shared: dict[str, str] = {}
    at, more = start.end(), True
    while more:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise _bad(index, f"is not a valid index near character {at}")
        tensor, name = _string(index, pair[1]), _string(index, pair[2])
        if tensor in names:
            raise _bad(index, f"names tensor {tensor!r} twice")
        names[tensor] = shared.setdefault(name, name)
        if len(names) > MAX_TENSORS:
            raise _bad(index, f"names more than {MAX_TENSORS} tensors")
        at, more = pair.end(), pair[3] == ","
    # All around the map must be JSON too, and the map where it belongs.
    around = _json(index, f"{text[: start.end() - 1]}{{}}{text[at:]}")
    if not isinstance(around, dict) or around.get("weight_map") != {}:
        raise _bad(index, "has no weight_map of its own")
    return names


def _directory(path: Path, header: bytes, start: int, size: int) -> dict[str, StoredTensor]:
    text = _text(path, header)
    tensors: dict[str, StoredTensor] = {}
    if _EMPTY.fullmatch(text):
        return tensors
    opening = re.match(r"\s*\{", text)
    at, more = (opening.end() if opening else 0), opening is not None
    seen_metadata = False
    while more:
        entry = _ENTRY.match(text, at)
        if entry is None:
            break
        name = _string(path, entry[1])
        if name in tensors or (name == "__metadata__" and seen_metadata):
            raise _bad(path, f"the header names {name[:200]!r} twice")
        if name == "__metadata__":
            seen_metadata = True
            _check_metadata(path, entry[2])
        elif entry[2] == "null":
            raise _bad(path, f"tensor {name[:80]!r} is null")
        else:
            tensors[name] = _entry(path, name, entry[2], start)
        if len(tensors) > MAX_TENSORS:
            raise _bad(path, f"more than {MAX_TENSORS} tensors")
        at, more = entry.end(), entry[3] == ","
    if opening is None or more or text[at:].strip():
        raise _bad(path, f"the header is not valid near byte {8 + at}")
    _check_layout(path, tensors, start, size)
    return tensors


def _check_metadata(path: Path, text: str) -> None:
    """What a file says of itself is text for text, or null, as the library has it."""
    if len(text) > MAX_METADATA_BYTES:
        raise _bad(path, f"__metadata__ takes {len(text)} bytes")
    found = _json(path, text)
    if found is not None and not all(isinstance(value, str) for value in found.values()):
        raise _bad(path, "__metadata__ has a value that is no text")


def _entry(path: Path, name: str, text: str, start: int) -> StoredTensor:
    if len(text) > MAX_ENTRY_BYTES:
        raise _bad(path, f"the entry of tensor {name!r} takes {len(text)} bytes")
    fields = _json(path, text)
    dtype, shape, span = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _naturals(shape) or not _naturals(span) or len(span) != 2:
        raise _bad(path, f"tensor {name!r} lacks a sound dtype, shape or data_offsets")
    if len(shape) > MAX_DIMENSIONS:
        raise _bad(path, f"tensor {name!r} has {len(shape)} dimensions, at most {MAX_DIMENSIONS}")
    known = FORMATS.get(_DTYPES.get(dtype, dtype))
    nbytes = span[1] - span[0]
    if nbytes < 0 or (known and prod(shape) * known.bytes != nbytes):
        raise _bad(path, f"tensor {name!r} of {dtype} {shape} does not take {nbytes} bytes")
    return StoredTensor(known.name if known else dtype, tuple(shape), start + span[0], nbytes)


def _check_layout(path: Path, tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """Tensors follow each other without gap or overlap up to the end of the file."""
    end, before = start, "the header"
    for name, t in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if t.offset + t.nbytes > size:
            raise _bad(path, f"tensor {name!r} ends at byte {t.offset + t.nbytes} of {size}")
        if t.offset != end:
            how = "overlap" if t.offset < end else "leave a hole between them"
            raise _bad(path, f"{before} and tensor {name!r} {how}")
        end, before = t.offset + t.nbytes, f"tensor {name!r}"
    if end != size:
        raise _bad(path, f"{size - end} bytes after the last tensor belong to none")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _string(path: Path, quoted: str) -> str:
    """A JSON string; most have no escapes."""
    return str(_json(path, quoted)) if "\\" in quoted else quoted[1:-1]


def _json(path: Path, text: str) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=members)
        if "\\u" in text:  # half of a surrogate pair is no text, as the library has it
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError):
        raise _bad(path, f"not valid JSON at {text[:60]!r}") from None


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _bad(path, "is not UTF-8") from None


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


def _bad(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}.", fix=_REFETCH)
