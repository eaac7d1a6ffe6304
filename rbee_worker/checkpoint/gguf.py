"""The GGUF container: metadata and a directory of tensors in one mapped file.

Knows no architecture and decodes no weights. Sizes are checked against the file before anything is
allocated, metadata is decoded when asked for: a hostile file costs neither time nor memory.
Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from rbee_worker.checkpoint.formats import GGML_FORMATS, Packed, TensorInfo
from rbee_worker.errors import BadReference, CheckpointError, UnsupportedModel

MAX_METADATA_BYTES = 64 << 20  # a 262k vocabulary with merges takes 15 MiB
MAX_ITEMS = 2 << 20  # keys, tensors and array elements in all
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_KEY_BYTES = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
MAX_NESTING = 4

_REFETCH = "download the file again (it is damaged or was cut short)"
_FOREIGN = "convert the model again with a current GGUF converter"

_U32 = Struct("<I")
_U64 = Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: dict[int, np.dtype[Any]] = {
    number: np.dtype(code)
    for number, code in {
        0: "<u1",
        1: "<i1",
        2: "<u2",
        3: "<i2",
        4: "<u4",
        5: "<i4",
        6: "<f4",
        7: "<u1",
        10: "<u8",
        11: "<i8",
        12: "<f8",
    }.items()
}


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the directory. shape: outermost first; offset: from the start of the file."""

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class _Cursor:
    """Reads forward through the header of one file; every read is checked against its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0
        self.items = 0

    def bad(self, what: str, fix: str = _REFETCH) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}.", fix=fix)

    def count(self, items: int, each: int, what: str) -> None:
        """Refuse `items` things of at least `each` bytes that the file cannot hold."""
        if items * each > self.size - self.at:
            raise self.bad(f"{what} says {items} entries, the file ends before them")
        self.items += items
        if self.items > MAX_ITEMS:
            raise self.bad(f"{what} brings the header over {MAX_ITEMS} items", _FOREIGN)

    def skip(self, n: int, what: str) -> int:
        """Step over n bytes; where they start."""
        start = self.at
        if n > self.size - start:
            raise self.bad(f"the file ends inside {what}")
        self.at = start + n
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self.skip(8, what))[0])

    def text(self, what: str, limit: int) -> str:
        """A string that names something: short, valid UTF-8, not empty."""
        n = self.u64(what)
        if not 0 < n <= limit:
            raise self.bad(f"the length of {what} is {n}, allowed is 1 to {limit}", _FOREIGN)
        start = self.skip(n, what)
        try:
            return self.data[start : start + n].decode()
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8") from None

    def value(self, kind: int, what: str, depth: int = 0) -> None:
        """Step over a metadata value of type number `kind`."""
        if kind == _STRING:
            self.skip(self.u64(what), what)
        elif kind == _ARRAY:
            self._array(what, depth)
        elif kind in _NUMBERS:
            self.skip(_NUMBERS[kind].itemsize, what)
        else:
            raise self.bad(f"{what} has the unknown type {kind}", _FOREIGN)

    def _array(self, what: str, depth: int) -> None:
        kind, n = self.u32(what), self.u64(what)
        if kind in _NUMBERS:
            self.count(n, _NUMBERS[kind].itemsize, what)
            self.skip(n * _NUMBERS[kind].itemsize, what)
        elif kind == _STRING:
            self.count(n, 8, what)
            self._strings(n, what)
        elif kind == _ARRAY:
            if depth >= MAX_NESTING:
                raise self.bad(f"{what} nests arrays deeper than {MAX_NESTING}", _FOREIGN)
            self.count(n, 12, what)
            for _ in range(n):
                self._array(what, depth + 1)
        else:
            raise self.bad(f"{what} is an array of the unknown type {kind}", _FOREIGN)

    def _strings(self, n: int, what: str) -> None:
        # A vocabulary: hundreds of thousands of strings, so no call per string but the unpack.
        length, data, at, last = _U64.unpack_from, self.data, self.at, self.size - 8
        for _ in range(n):
            if at > last:
                raise self.bad(f"the file ends inside {what}")
            at += 8 + length(data, at)[0]
        self.at = at
        if at > self.size:
            raise self.bad(f"the file ends inside {what}")


class Metadata(Mapping[str, Any]):
    """Keys of the file and their values, decoded on first use.

    Numbers are int, float or bool, strings str, arrays (also nested) lists of these.
    """

    def __init__(self, path: Path, data: mmap.mmap, index: dict[str, tuple[int, int]]) -> None:
        self._path = path
        self._data = data
        self._index = index  # key -> (type number, where the value starts)
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            kind, at = self._index[key]
            self._decoded[key] = self._decode(kind, at, key)[0]
        return self._decoded[key]

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def array_length(self, key: str) -> int | None:
        """Elements of an array without decoding it; None when the key is absent or no array."""
        kind, at = self._index.get(key, (-1, 0))
        return int(_U64.unpack_from(self._data, at + 4)[0]) if kind == _ARRAY else None

    def _decode(self, kind: int, at: int, key: str) -> tuple[Any, int]:
        """(value, where it ends). Sizes were checked when the file was opened."""
        if kind == _STRING:
            end = at + 8 + _U64.unpack_from(self._data, at)[0]
            return self._data[at + 8 : end].decode(errors="replace"), end
        if kind == _ARRAY:
            return self._decode_array(at, key)
        values, end = self._numbers(kind, at, 1)
        return values[0], end

    def _numbers(self, kind: int, at: int, n: int) -> tuple[list[Any], int]:
        dtype = _NUMBERS[kind]
        values = np.frombuffer(self._data, dtype, n, at) if n else np.empty(0, dtype)
        end = at + n * dtype.itemsize
        return (values.astype(bool) if kind == _BOOL else values).tolist(), end

    def _decode_array(self, at: int, key: str) -> tuple[list[Any], int]:
        kind = _U32.unpack_from(self._data, at)[0]
        n = _U64.unpack_from(self._data, at + 4)[0]
        at += 12
        if kind in _NUMBERS:
            return self._numbers(kind, at, n)
        values: list[Any] = []
        if kind == _ARRAY:
            for _ in range(n):
                value, at = self._decode_array(at, key)
                values.append(value)
            return values, at
        length, data = _U64.unpack_from, self._data
        try:
            for _ in range(n):
                end = at + 8 + length(data, at)[0]
                values.append(data[at + 8 : end].decode())
                at = end
        except UnicodeDecodeError:
            what = f"element {len(values)} of metadata key {key!r} is not UTF-8"
            raise CheckpointError(f"{self._path}: {what}.", fix=_REFETCH) from None
        return values, at


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file. Tensors keep the names and row order that the file gives them."""

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    tensors: dict[str, GgufTensor]
    _data: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Map the file and check its whole directory; no tensor data is touched.

        Raises BadReference when it cannot be opened, CheckpointError when it is damaged.
        """
        cursor = _Cursor(path, _map(path))
        version = _version(cursor)
        n_tensors, n_keys = cursor.u64("the header"), cursor.u64("the header")
        metadata = _metadata(cursor, n_keys)
        alignment = _alignment(cursor, metadata)
        tensors = _directory(cursor, n_tensors, alignment)
        return cls(path, version, alignment, metadata, tensors, cursor.data)

    def info(self, name: str) -> TensorInfo:
        """Raises KeyError when there is no such tensor."""
        t = self.tensors[name]
        return TensorInfo(t.format, t.shape, t.nbytes)

    def read(self, name: str) -> Packed:
        """A view of the tensor's blocks in the mapped file (read-only, kept alive by the view).

        Raises KeyError for an unknown name, UnsupportedModel for a type of unknown size.
        """
        t = self.tensors[name]
        if t.nbytes == 0:
            raise UnsupportedModel(
                f"{self.path}: tensor {name!r} has the unknown type {t.format}.", fix=_FOREIGN
            )
        rows = prod(t.shape[:-1])
        data = np.frombuffer(self._data, np.uint8, t.nbytes, t.offset)
        return Packed(data.reshape(rows, t.nbytes // rows), t.format, t.shape)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise CheckpointError(f"{path}: too short to be a GGUF file.", fix=_REFETCH)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BadReference(
            f"{path}: cannot be opened ({error}).", fix="check the path and its permissions"
        ) from None


def _version(cursor: _Cursor) -> int:
    if cursor.data[:4] != b"GGUF":
        start = cursor.data[:4].hex(" ")
        raise cursor.bad(
            f"not a GGUF file (it starts with {start}, not 'GGUF')",
            "give a .gguf file or a directory with safetensors",
        )
    cursor.at = 4
    version = cursor.u32("the header")
    if version in (2, 3):
        return version
    if version & 0xFFFF == 0:
        raise cursor.bad(
            "a big-endian GGUF file; only little-endian ones are read",
            "convert it with gguf-convert-endian from the gguf package",
        )
    raise cursor.bad(f"GGUF version {version}; 2 and 3 are read", _FOREIGN)


def _metadata(cursor: _Cursor, n_keys: int) -> Metadata:
    cursor.count(n_keys, 13, "the number of metadata keys")
    if n_keys > MAX_KEYS:
        raise cursor.bad(f"{n_keys} metadata keys; at most {MAX_KEYS} are read", _FOREIGN)
    index: dict[str, tuple[int, int]] = {}
    for i in range(n_keys):
        key = cursor.text(f"the name of metadata key {i}", MAX_KEY_BYTES)
        if key in index:
            raise cursor.bad(f"metadata key {key!r} occurs twice", _FOREIGN)
        what = f"metadata key {key!r}"
        kind = cursor.u32(what)
        index[key] = (kind, cursor.at)
        cursor.value(kind, what)
        if cursor.at > MAX_METADATA_BYTES:
            raise cursor.bad(f"metadata beyond {MAX_METADATA_BYTES >> 20} MiB", _FOREIGN)
    return Metadata(cursor.path, cursor.data, index)


def _alignment(cursor: _Cursor, metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", 32)
    good = type(alignment) is int and 0 < alignment <= MAX_ALIGNMENT
    if not good or alignment & (alignment - 1):
        shown = str(alignment)[:40]
        raise cursor.bad(f"general.alignment is {shown}; it must be a power of two", _FOREIGN)
    return int(alignment)


def _directory(cursor: _Cursor, n_tensors: int, alignment: int) -> dict[str, GgufTensor]:
    cursor.count(n_tensors, 25, "the number of tensors")
    if n_tensors > MAX_TENSORS:
        raise cursor.bad(f"{n_tensors} tensors; at most {MAX_TENSORS} are read", _FOREIGN)
    entries = [_entry(cursor, i, alignment) for i in range(n_tensors)]
    data_start = (cursor.at + alignment - 1) // alignment * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, t in entries:
        if name in tensors:
            raise cursor.bad(f"tensor {name!r} occurs twice", _FOREIGN)
        tensors[name] = GgufTensor(t.format, t.shape, data_start + t.offset, t.nbytes)
    end, before = 0, ""
    for name, t in sorted(tensors.items(), key=lambda item: item[1].offset):
        if t.offset + t.nbytes > cursor.size:
            raise cursor.bad(f"tensor {name!r} ends at byte {t.offset + t.nbytes} of {cursor.size}")
        if t.offset < end:
            raise cursor.bad(f"tensors {before!r} and {name!r} overlap", _FOREIGN)
        end, before = t.offset + t.nbytes, name
    return tensors


def _entry(cursor: _Cursor, i: int, alignment: int) -> tuple[str, GgufTensor]:
    """Directory entry i; its offset still counts from the start of the data."""
    name = cursor.text(f"the name of tensor {i}", MAX_NAME_BYTES)
    what = f"tensor {name!r}"
    n_dims = cursor.u32(what)
    if n_dims > MAX_DIMENSIONS:
        raise cursor.bad(f"{what} has {n_dims} dimensions, at most {MAX_DIMENSIONS}", _FOREIGN)
    shape = tuple(cursor.u64(what) for _ in range(n_dims))[::-1]
    kind, offset = cursor.u32(what), cursor.u64(what)
    if 0 in shape:
        raise cursor.bad(f"{what} has an empty dimension: {list(shape)}", _FOREIGN)
    if offset % alignment:
        raise cursor.bad(f"{what} starts at {offset}, which is not aligned to {alignment}")
    known = GGML_FORMATS.get(kind)
    if known is None:
        return name, GgufTensor(f"GGML_{kind}", shape, offset, 0)
    if (shape[-1] if shape else 1) % known.block:
        raise cursor.bad(f"{what}: rows of {shape} are not whole {known.name} blocks", _FOREIGN)
    return name, GgufTensor(known.name, shape, offset, prod(shape) // known.block * known.bytes)
