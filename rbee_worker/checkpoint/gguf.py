"""The GGUF container: metadata and a tensor directory in one memory-mapped file.

This module knows no architecture and decodes no weights. It checks everything against the file's
size before use, and returns tensors as views of the file.
Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from rbee_worker.checkpoint.formats import GGML_FORMATS, Packed, TensorInfo, refuse_unreadable
from rbee_worker.checkpoint.gguf_header import FOREIGN, REFETCH, Cursor, Metadata, read_metadata
from rbee_worker.checkpoint.mapping import map_file, release
from rbee_worker.errors import CheckpointError

MIN_BYTES = 24  # magic number, version, two counts
MAX_TENSORS = 1 << 17
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20

# How files of other kinds begin -> what to call them.
_MAGIC = {
    b"PK\x03\x04": ", but a zip archive, such as a PyTorch pickle",
    b"\x80\x02": ", but a Python pickle",
    b"lmgg": ", but a GGML file from before August 2023",
    b"fmgg": ", but a GGML file from before August 2023",
    b"tjgg": ", but a GGML file from before August 2023",
    b"algg": ", but a LoRA adapter from before August 2023",
    b"\x89HDF": ", but HDF5",
    b"\x1f\x8b": ", but compressed with gzip",
    b"<!DO": ", but a web page",
    b"<htm": ", but a web page",
    b"{": ", but JSON",
}


@dataclass(frozen=True)
class GgufTensor:
    """One directory entry. shape: outermost dimension first; offset: from the start of its file;
    part: the number of that file, if the model is split into several."""

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    part: int = 0


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file. Tensors keep the names and the row order of the file."""

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    tensors: dict[str, GgufTensor]
    _data: tuple[mmap.mmap, ...]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Map the file and check its whole directory, without reading tensor data.

        Raises BadReference when it cannot be opened, CheckpointError when it is damaged.
        """
        cursor = Cursor(path, map_file(path, "a GGUF file", MIN_BYTES))
        version = _version(cursor)
        n_tensors, n_keys = cursor.u64("the header"), cursor.u64("the header")
        metadata = read_metadata(cursor, n_keys)
        alignment = _alignment(cursor, metadata)
        tensors = _directory(cursor, n_tensors, alignment)
        return cls(path, version, alignment, metadata, tensors, (cursor.data,))

    def info(self, name: str) -> TensorInfo:
        """Raises KeyError if there is no such tensor."""
        t = self.tensors[name]
        return TensorInfo(t.format, t.shape, t.nbytes)

    def read(self, name: str) -> Packed:
        """The tensor's blocks as a read-only view, which keeps the mapping alive.

        Raises KeyError for an unknown name, UnsupportedModel for a format that has no decoder.
        """
        t = self.tensors[name]
        refuse_unreadable(t.format, name, str(self.path))
        rows = prod(t.shape[:-1])
        data = np.frombuffer(self._data[t.part], np.uint8, t.nbytes, t.offset)
        return Packed(data.reshape(rows, t.nbytes // rows), t.format, t.shape)

    def release(self) -> None:
        """Let the mapped pages leave memory; they are read from the file again when needed."""
        for data in self._data:
            release(data)

    def with_parts(self, others: Sequence[GgufFile]) -> GgufFile:
        """This file with the tensors of `others` added.

        Raises CheckpointError for a tensor that two files have.
        """
        tensors, data = dict(self.tensors), self._data
        for number, other in enumerate(others, len(data)):
            for name, tensor in other.tensors.items():
                if name in tensors:
                    raise CheckpointError(
                        f"{other.path}: tensor {name[:80]!r} is in another part as well.",
                        fix=REFETCH,
                    )
                tensors[name] = replace(tensor, part=number)
            data += other._data
        return replace(self, tensors=tensors, _data=data)


def _version(cursor: Cursor) -> int:
    start = cursor.data[:10]
    if not start.startswith(b"GGUF"):
        what = next((what for magic, what in _MAGIC.items() if start.startswith(magic)), "")
        if not what and start[8:10] in (b'{"', b"{ ", b"{}"):
            what = ", but a safetensors file"
        raise cursor.bad(
            f"not a GGUF file{what} (it starts with {start[:4].hex(' ')}, not 'GGUF')",
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
    raise cursor.bad(f"GGUF version {version}; 2 and 3 are read", FOREIGN)


def _alignment(cursor: Cursor, metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", 32)
    good = type(alignment) is int and 0 < alignment <= MAX_ALIGNMENT
    if not good or alignment & (alignment - 1):
        shown = str(alignment)[:40]
        raise cursor.bad(f"general.alignment is {shown}; it must be a power of two", FOREIGN)
    return int(alignment)


def _directory(cursor: Cursor, n_tensors: int, alignment: int) -> dict[str, GgufTensor]:
    cursor.count(n_tensors, 25, "the number of tensors")
    if n_tensors > MAX_TENSORS:
        raise cursor.bad(f"{n_tensors} tensors; at most {MAX_TENSORS} are read", FOREIGN)
    entries = [_entry(cursor, i, alignment) for i in range(n_tensors)]
    data_start = (cursor.at + alignment - 1) // alignment * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, t in entries:
        if name in tensors:
            raise cursor.bad(f"tensor {name!r} occurs twice", FOREIGN)
        tensors[name] = GgufTensor(t.format, t.shape, data_start + t.offset, t.nbytes)
    end, before = 0, ""
    for name, t in sorted(tensors.items(), key=lambda item: item[1].offset):
        if t.offset + t.nbytes > cursor.size:
            raise cursor.bad(f"tensor {name!r} ends at byte {t.offset + t.nbytes} of {cursor.size}")
        if t.offset < end:
            raise cursor.bad(f"tensors {before!r} and {name!r} overlap", FOREIGN)
        end, before = t.offset + t.nbytes, name
    return tensors


def _entry(cursor: Cursor, i: int, alignment: int) -> tuple[str, GgufTensor]:
    """Directory entry i. Its offset is still relative to the start of the tensor data."""
    name = cursor.text(f"the name of tensor {i}", MAX_NAME_BYTES)
    what = f"tensor {name!r}"
    n_dims = cursor.u32(what)
    if n_dims > MAX_DIMENSIONS:
        raise cursor.bad(f"{what} has {n_dims} dimensions, at most {MAX_DIMENSIONS}", FOREIGN)
    shape = tuple(cursor.u64(what) for _ in range(n_dims))[::-1]
    kind, offset = cursor.u32(what), cursor.u64(what)
    if 0 in shape:
        raise cursor.bad(f"{what} has an empty dimension: {list(shape)}", FOREIGN)
    if offset % alignment:
        raise cursor.bad(f"{what} starts at {offset}, which is not aligned to {alignment}")
    known = GGML_FORMATS.get(kind)
    if known is None:
        return name, GgufTensor(f"GGML_{kind}", shape, offset, 0)
    if (shape[-1] if shape else 1) % known.block:
        raise cursor.bad(f"{what}: rows of {shape} are not whole {known.name} blocks", FOREIGN)
    return name, GgufTensor(known.name, shape, offset, prod(shape) // known.block * known.bytes)
