"""Names of weight files. A model is found by these names, before any file is opened; by their sizes
and times it is seen whether it is still the same."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # says which file has which tensor
_READ = (INDEX, "config.json")
MAX_PARTS = 1 << 12
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def parts_of(name: str) -> list[str]:
    """The names of all files of the GGUF model that the file `name` is a part of, as
    llama-gguf-split writes them; [name] if it is the only one."""
    match = _PART.fullmatch(name)
    count = int(match["count"]) if match else 0
    if match is None or not 1 < count <= MAX_PARTS:
        return [name]
    return [f"{match['stem']}-{n + 1:05d}-of-{count:05d}.gguf" for n in range(count)]


def stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, size, time of change) of the files that an engine reads of the model at `path`: equal
    for as long as nobody writes them. Files that are missing or cannot be seen are left out."""
    with suppress(OSError):
        if path.is_dir():
            found = [f for f in path.iterdir() if f.suffix == ".safetensors" or f.name in _READ]
        else:
            found = [path.with_name(name) for name in parts_of(path.name)]
        stats = ((f.name, f.stat()) for f in sorted(found) if f.is_file())
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return ()
