"""Names of weight files. A model is found by these names, before any file is opened."""

from __future__ import annotations

import re

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # says which file has which tensor
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
