"""Decoders saved without their output head, as models for embeddings are: transformers then leaves
out the prefix of their tensors' names too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbee_worker.checkpoint.formats import Packed, TensorInfo, TensorSource
from rbee_worker.checkpoint.tied import HEAD

_PREFIX = "model."
_EMBEDDING = "embed_tokens.weight"


def completed(
    config: Mapping[str, Any], source: TensorSource
) -> tuple[dict[str, Any], TensorSource, bool]:
    """Config and tensors under the names of the whole model, and whether it has no head of its own.
    The embedding then stands for one, which only counts where that is what the config says."""
    names = source.names()
    if _EMBEDDING not in names or any(name.startswith(_PREFIX) for name in names):
        return dict(config), source, False
    headless = HEAD not in names and config.get("tie_word_embeddings") is False
    if headless:
        config = {**config, "tie_word_embeddings": True}
    return dict(config), _Prefixed(source), headless


class _Prefixed:
    """A source whose tensors, all but the head, get the prefix."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._where = {n if n == HEAD else _PREFIX + n: n for n in source.names()}

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return list(self._where)

    def info(self, name: str) -> TensorInfo:
        """See `TensorSource`."""
        return self._source.info(self._where[name])

    def read(self, name: str) -> Packed:
        """See `TensorSource`."""
        return self._source.read(self._where[name])

    def release(self) -> None:
        """See `TensorSource.release`."""
        self._source.release()
