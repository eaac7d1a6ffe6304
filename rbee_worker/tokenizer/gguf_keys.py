"""Reads single keys of a GGUF file's tokenizer (`tokenizer.ggml.*`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbee_worker.errors import CheckpointError

Metadata = Mapping[str, Any]
KEY = "tokenizer.ggml."
AGAIN = "convert or download the model again"
NO_ID = (-1, 0xFFFF_FFFF)  # how files say that there is no such token


def column(meta: Metadata, name: str, *kinds: type) -> list[Any]:
    """One array of the metadata, [] where there is none; every item is of one of `kinds`."""
    value = meta.get(KEY + name, [])
    if not isinstance(value, list) or not all(type(v) in kinds for v in value):
        raise CheckpointError(f"{KEY}{name} is not an array of {kinds[0].__name__}", fix=AGAIN)
    return value


def token_id(
    meta: Metadata,
    name: str,
    default: int | None,
    size: int,
    warnings: list[str] | None = None,
) -> int | None:
    """The id that a key gives, else `default`. warnings: hear of one that is no token, which then
    counts as not given, as in llama.cpp; without, it is refused."""
    value = meta.get(KEY + name)
    usual = default if default is not None and default < size else None
    if value is None or value in NO_ID:
        return usual
    if type(value) is int and 0 <= value < size:
        return value
    said = f"{KEY}{name} is {str(value)[:20]}, outside the vocabulary of {size} tokens"
    if warnings is None or type(value) is not int:
        raise CheckpointError(said, fix=AGAIN)
    warnings.append(f"{said}: {'none' if usual is None else usual} is used")
    return usual
