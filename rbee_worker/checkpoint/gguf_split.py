"""A GGUF model split over several files, `name-00001-of-00003.gguf` and so on (llama-gguf-split).

Each file has a directory of its own tensors; the first also has the model's metadata. A reference
may name any of the files: the others are found by their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.reading import inside
from rbee_worker.checkpoint.weight_files import MAX_PARTS, parts_of
from rbee_worker.errors import CheckpointError

_AGAIN = "fetch all parts, and keep the names they were published under"


def open_gguf(path: Path) -> GgufFile:
    """The model in `path`, or the model that `path` is one part of.

    Raises as `GgufFile.open`, and CheckpointError if a part is missing or belongs to another model.
    """
    file = GgufFile.open(path)
    count = file.metadata.get("split.count", 0)
    if count in (0, 1):
        return file
    if type(count) is not int or not 1 < count <= MAX_PARTS:
        raise CheckpointError(f"{path}: split.count is {str(count)[:40]!r}.", fix=_AGAIN)
    parts = [_part(path, name, n, count) for n, name in enumerate(_names(path, count))]
    whole = parts[0].with_parts(parts[1:])
    total = whole.metadata.get("split.tensors.count", len(whole.tensors))
    if total != len(whole.tensors):
        raise CheckpointError(
            f"{path}: its {count} parts have {len(whole.tensors)} tensors, but the first says "
            f"{total}.",
            fix=_AGAIN,
        )
    return whole


def _names(path: Path, count: int) -> list[str]:
    names = parts_of(path.name)
    if len(names) != count:
        raise CheckpointError(
            f"{path}: one of {count} files, but its name does not say which.", fix=_AGAIN
        )
    return names


def _part(path: Path, name: str, number: int, count: int) -> GgufFile:
    """Part `number` (counted from 0), which lies beside `path`."""
    there = path.with_name(name)
    if not there.is_file():
        raise CheckpointError(f"{there}: missing; the model has {count} files.", fix=_AGAIN)
    part = GgufFile.open(there if there == path else inside(path.parent, there))
    said: dict[str, Any] = {key: part.metadata.get(f"split.{key}") for key in ("no", "count")}
    if said != {"no": number, "count": count}:
        raise CheckpointError(
            f"{there}: says that it is part {str(said['no'])[:20]} (from 0) of "
            f"{str(said['count'])[:20]}, but its name says {number} of {count}.",
            fix=_AGAIN,
        )
    return part
