"""The header of a safetensors file, read entry by entry.

Each entry is checked before the next one is read, so a hostile header fails early and cheaply.
Format: huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.errors import CheckpointError

MAX_HEADER_BYTES = 16 << 20
MAX_ENTRY_BYTES = 4 << 10
MAX_METADATA_BYTES = 4 << 20
MAX_TENSORS = 1 << 17
MAX_DIMENSIONS = 8

REFETCH = "download the file again (it is damaged or was cut short)"

# A JSON string; an object without objects in it.
# (`*+` and `++` never backtrack, so the time stays linear in the length of the header.)
STRING = r'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_OBJECT = rf'\{{(?:{STRING}|[^"{{}}]++)*+\}}'
# Metadata may be null: the safetensors library accepts null for none.
_ENTRY = re.compile(rf"\s*+({STRING})\s*+:\s*+({_OBJECT}|null)\s*+(,|\}})")
_EMPTY = re.compile(r"\s*\{\s*\}\s*")

# dtypes that have another name here; every other dtype is the name of its format.
_DTYPES = {"F8_E4M3FN": "F8_E4M3"}


@dataclass(frozen=True)
class StoredTensor:
    """The location of a tensor. offset: from the start of the file."""

    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path, header: bytes, size: int) -> dict[str, StoredTensor]:
    """The tensors that `header` lists (the bytes behind its length); size: of the whole file.

    path: for messages. Raises CheckpointError.
    """
    start = 8 + len(header)
    text = utf8(path, header)
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
        name = json_string(path, entry[1])
        if name in tensors or (name == "__metadata__" and seen_metadata):
            raise damaged(path, f"the header names {name[:200]!r} twice")
        if name == "__metadata__":
            seen_metadata = True
            _check_metadata(path, entry[2])
        elif entry[2] == "null":
            raise damaged(path, f"tensor {name[:80]!r} is null")
        else:
            tensors[name] = _entry(path, name, entry[2], start)
        if len(tensors) > MAX_TENSORS:
            raise damaged(path, f"more than {MAX_TENSORS} tensors")
        at, more = entry.end(), entry[3] == ","
    if opening is None or more or text[at:].strip():
        raise damaged(path, f"the header is not valid near byte {8 + at}")
    _check_layout(path, tensors, start, size)
    return tensors


def _check_metadata(path: Path, text: str) -> None:
    """The file's own metadata must map strings to strings, or be null, as in the safetensors
    library."""
    if len(text) > MAX_METADATA_BYTES:
        raise damaged(path, f"__metadata__ takes {len(text)} bytes")
    found = strict_json(path, text)
    if found is not None and not all(isinstance(value, str) for value in found.values()):
        raise damaged(path, "__metadata__ has a value that is not a string")


def _entry(path: Path, name: str, text: str, start: int) -> StoredTensor:
    if len(text) > MAX_ENTRY_BYTES:
        raise damaged(path, f"the entry of tensor {name!r} takes {len(text)} bytes")
    fields = strict_json(path, text)
    dtype, shape, span = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _naturals(shape) or not _naturals(span) or len(span) != 2:
        raise damaged(path, f"tensor {name!r} lacks a valid dtype, shape or data_offsets")
    if len(shape) > MAX_DIMENSIONS:
        raise damaged(
            path, f"tensor {name!r} has {len(shape)} dimensions, at most {MAX_DIMENSIONS}"
        )
    known = FORMATS.get(_DTYPES.get(dtype, dtype))
    nbytes = span[1] - span[0]
    if nbytes < 0 or (known and prod(shape) * known.bytes != nbytes):
        raise damaged(path, f"tensor {name!r} of {dtype} {shape} does not take {nbytes} bytes")
    return StoredTensor(known.name if known else dtype, tuple(shape), start + span[0], nbytes)


def _check_layout(path: Path, tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """Tensors must follow one another without gaps or overlaps up to the end of the file."""
    end, before = start, "the header"
    for name, t in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if t.offset + t.nbytes > size:
            raise damaged(path, f"tensor {name!r} ends at byte {t.offset + t.nbytes} of {size}")
        if t.offset != end:
            how = "overlap" if t.offset < end else "leave a gap between them"
            raise damaged(path, f"{before} and tensor {name!r} {how}")
        end, before = t.offset + t.nbytes, f"tensor {name!r}"
    if end != size:
        raise damaged(path, f"{size - end} bytes after the last tensor belong to no tensor")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def json_string(path: Path, quoted: str) -> str:
    """The value of a JSON string. Most strings have no escapes, which makes this fast."""
    return str(strict_json(path, quoted)) if "\\" in quoted else quoted[1:-1]


def strict_json(path: Path, text: str) -> Any:
    """The JSON value in `text`, without duplicate keys. Raises CheckpointError."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=members)
        if "\\u" in text:  # refuse half a surrogate pair, as the library does
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError):
        raise damaged(path, f"not valid JSON at {text[:60]!r}") from None


def utf8(path: Path, data: bytes) -> str:
    """`data` as text. Raises CheckpointError."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise damaged(path, "is not UTF-8") from None


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a file that is damaged in the way that `what` says."""
    return CheckpointError(f"{path}: {what}.", fix=REFETCH)
