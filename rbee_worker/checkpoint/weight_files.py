"""Names of weight files. A model is found by these names, before any file is opened; by their sizes
and times it is seen whether it is still the same."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # says which file has which tensor
_READ = (INDEX, "config.json")
MAX_PARTS = 1 << 12
_HEAD, _SAMPLE, _SAMPLES = 1 << 16, 1 << 12, 32  # bytes, bytes, number: what is read of one file
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
        stats = ((f.name, f.stat()) for f in _files(path))
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return ()


def digest(path: Path) -> str:
    """A digest of the model at `path` that is the same for copies of it: of its files' sizes, their
    beginnings and samples of the rest, which differ even between two trainings of one model."""
    made = hashlib.sha256()
    for file in _files(path):
        size = file.stat().st_size
        made.update(f"{size} ".encode())
        with file.open("rb") as opened:
            made.update(opened.read(_HEAD))
            for n in range(1, _SAMPLES + 1):
                opened.seek(max(0, size - _SAMPLE) * n // _SAMPLES)
                made.update(opened.read(_SAMPLE))
    return made.hexdigest()


def _is_bare(path: Path) -> bool:
    """Whether a GGUF file has no metadata, so that config.json says what it is (`hf_named`)."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(24)  # magic number, version, how many tensors, how many keys
        return head.startswith(b"GGUF") and not any(head[16:]) and len(head) == 24
    return False


def _files(path: Path) -> list[Path]:
    """The files that an engine reads of the model at `path`, as far as they exist."""
    if path.is_dir():
        found = [f for f in path.iterdir() if f.suffix == ".safetensors" or f.name in _READ]
        for dense in path.glob(f"[0-9]*_*/{SINGLE}"):  # of sentence-transformers
            found += (dense, dense.with_name("config.json"))
    else:
        found = [path.with_name(name) for name in parts_of(path.name)]
        if _is_bare(path):
            found.append(path.with_name("config.json"))
    return [f for f in sorted(found) if f.is_file()]
