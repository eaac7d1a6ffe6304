"""The header of a GGUF file: a cursor that trusts no size, and metadata decoded on first use.

Nothing is allocated before its size is checked, and nothing is decoded before it is needed. A
hostile file therefore costs neither time nor memory, and a vocabulary of 128k tokens is skipped in
milliseconds.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from rbee_worker.errors import CheckpointError

MAX_METADATA_BYTES = 64 << 20  # a vocabulary of 262k tokens with merges takes 15 MiB
MAX_ITEMS = 2 << 20  # total of keys, tensors and array elements
MAX_KEYS = 1 << 16
MAX_KEY_BYTES = 1 << 16
MAX_NESTING = 4
BATCH = 1 << 15  # strings decoded in one call

REFETCH = "download the file again (it is damaged or was cut short)"
FOREIGN = "convert the model again with a current GGUF converter"

_U32 = Struct("<I")
_U64 = Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_ADDED = (-1, 0)  # in the place of a type and a position: the file has no such value
_CODES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "u1", None, None, "u8", "i8", "f8")
_NUMBERS: dict[int, np.dtype[Any]] = {
    number: np.dtype(f"<{code}") for number, code in enumerate(_CODES) if code
}


class Cursor:
    """Reads forward through one file's header; every read is checked against the end of the
    file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0
        self.items = 0

    def bad(self, what: str, fix: str = REFETCH) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}.", fix=fix)

    def count(self, items: int, each: int, what: str) -> None:
        """Refuse `items` things of at least `each` bytes if the rest of the file is too small."""
        if items * each > self.size - self.at:
            raise self.bad(f"{what} says {items} entries, but the file ends before them")
        self.items += items
        if self.items > MAX_ITEMS:
            raise self.bad(f"{what} takes the header over {MAX_ITEMS} items", FOREIGN)

    def skip(self, n: int, what: str) -> int:
        """Step over n bytes; returns the position where they start."""
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
        """A string that is a name: not empty, at most `limit` bytes, valid UTF-8."""
        n = self.u64(what)
        if not 0 < n <= limit:
            raise self.bad(f"the length of {what} is {n}; it must be 1 to {limit}", FOREIGN)
        start = self.skip(n, what)
        try:
            return self.data[start : start + n].decode()
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8") from None

    def value(self, kind: int, what: str, depth: int = 0) -> None:
        """Step over a metadata value; kind: the number of its type."""
        if kind == _STRING:
            self.skip(self.u64(what), what)
        elif kind == _ARRAY:
            self._array(what, depth)
        elif kind in _NUMBERS:
            self.skip(_NUMBERS[kind].itemsize, what)
        else:
            raise self.bad(f"{what} has the unknown type {kind}", FOREIGN)

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
                raise self.bad(f"{what} nests arrays deeper than {MAX_NESTING}", FOREIGN)
            self.count(n, 12, what)
            for _ in range(n):
                self._array(what, depth + 1)
        else:
            raise self.bad(f"{what} is an array of the unknown type {kind}", FOREIGN)

    def _strings(self, n: int, what: str) -> None:
        # A vocabulary has hundreds of thousands of strings, so the loop makes one call per string.
        length, view, at, last = _U64.unpack_from, memoryview(self.data), self.at, self.size - 8
        for _ in range(n):
            if at > last:
                raise self.bad(f"the file ends inside {what}")
            at += 8 + length(view, at)[0]
        self.at = at
        if at > self.size:
            raise self.bad(f"the file ends inside {what}")


class Metadata(Mapping[str, Any]):
    """The file's metadata keys and values. A value is decoded when it is first read.

    Numbers become int, float or bool; strings become str; arrays, also nested ones, become lists.
    """

    def __init__(self, path: Path, data: mmap.mmap, index: dict[str, tuple[int, int]]) -> None:
        self._path = path
        self._data = data
        self._index = index  # key -> (type number, position where the value starts)
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

    def with_values(self, values: Mapping[str, Any]) -> Metadata:
        """The same keys, with `values` added or in the place of what the file has."""
        made = Metadata(self._path, self._data, {**self._index, **dict.fromkeys(values, _ADDED)})
        made._decoded = {**self._decoded, **values}
        return made

    def array_length(self, key: str) -> int | None:
        """The length of an array, without decoding it; None if the key is absent or not an
        array."""
        kind, at = self._index.get(key, _ADDED)
        if (kind, at) == _ADDED:
            value = self._decoded.get(key)
            return len(value) if isinstance(value, list) else None
        return int(_U64.unpack_from(self._data, at + 4)[0]) if kind == _ARRAY else None

    def _decode(self, kind: int, at: int, key: str) -> tuple[Any, int]:
        """(value, position where it ends). Sizes were checked when the file was opened."""
        if kind == _STRING:
            end = at + 8 + _U64.unpack_from(self._data, at)[0]
            return self._text(self._data[at + 8 : end], key), end
        if kind == _ARRAY:
            return self._decode_array(at, key)
        values, end = self._numbers(kind, at, 1)
        return values[0], end

    def _text(self, raw: bytes, key: str) -> str:
        """A string value. Only the tokenizer's strings must be valid UTF-8: prompts depend on
        them."""
        try:
            return raw.decode(errors="strict" if key.startswith("tokenizer.") else "replace")
        except UnicodeDecodeError:
            what = f"metadata key {key!r} is not UTF-8"
            raise CheckpointError(f"{self._path}: {what}.", fix=REFETCH) from None

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
        view = memoryview(self._data)
        for done in range(0, n, BATCH):
            some, at = _decode_strings(view, at, min(BATCH, n - done))
            if some is None:
                what = f"an element of metadata key {key!r} is not UTF-8"
                raise CheckpointError(f"{self._path}: {what}.", fix=REFETCH)
            values += some
        return values, at


def _decode_strings(view: memoryview, first: int, n: int) -> tuple[list[str] | None, int]:
    """n strings, the first at byte `first` (None if one is not UTF-8), and where the last one ends.

    Each length field is replaced with one zero byte; then one call decodes all strings and one
    splits them.
    """
    starts, at, length = array("q"), first, _U64.unpack_from
    for _ in range(n):
        starts.append(at)
        at += 8 + length(view, at)[0]
    text = np.array(view[first:at])
    heads = np.array(starts) - first
    keep = np.ones(len(text), dtype=bool)
    keep[(heads[:, None] + np.arange(1, 8)).ravel()] = False
    text[heads] = 0
    try:
        found = text[keep].tobytes().decode().split("\0")[1:]
        if len(found) != n:  # a string contains a zero byte
            ends = [*starts[1:], at]
            both = zip(starts, ends, strict=True)
            found = [bytes(view[start + 8 : end]).decode() for start, end in both]
    except UnicodeDecodeError:
        return None, at
    return found, at


def read_metadata(cursor: Cursor, n_keys: int) -> Metadata:
    """Index `n_keys` metadata keys, which start at the cursor. Raises CheckpointError."""
    cursor.count(n_keys, 13, "the number of metadata keys")
    if n_keys > MAX_KEYS:
        raise cursor.bad(f"{n_keys} metadata keys; at most {MAX_KEYS} are read", FOREIGN)
    index: dict[str, tuple[int, int]] = {}
    for i in range(n_keys):
        key = cursor.text(f"the name of metadata key {i}", MAX_KEY_BYTES)
        if key in index:
            raise cursor.bad(f"metadata key {key!r} occurs twice", FOREIGN)
        what = f"metadata key {key!r}"
        kind = cursor.u32(what)
        index[key] = (kind, cursor.at)
        cursor.value(kind, what)
        if cursor.at > MAX_METADATA_BYTES:
            raise cursor.bad(f"metadata beyond {MAX_METADATA_BYTES >> 20} MiB", FOREIGN)
    return Metadata(cursor.path, cursor.data, index)
