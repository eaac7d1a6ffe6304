"""Decoders saved without their output head: models for embeddings, where transformers leaves out
the prefix of their tensors' names too, and models with a head for classes in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.checkpoint.other_names import OtherNames
from rbee_worker.checkpoint.tied import HEAD

SCORES = "score.weight"
_PREFIX = "model."
_EMBEDDING = "embed_tokens.weight"


def completed(
    config: Mapping[str, Any], source: TensorSource
) -> tuple[dict[str, Any], TensorSource, bool]:
    """Config and tensors under the names of the whole model, and whether it has no head of its own.
    The embedding then stands for one, which only counts where that is what the config says."""
    names = source.names()
    if classifies(config, names) and HEAD not in names:
        return {**config, "tie_word_embeddings": True}, source, False
    if _EMBEDDING not in names or any(name.startswith(_PREFIX) for name in names):
        return dict(config), source, False
    headless = HEAD not in names and config.get("tie_word_embeddings") is False
    if headless:
        config = {**config, "tie_word_embeddings": True}
    where = {name if name == HEAD else _PREFIX + name: name for name in names}
    return dict(config), OtherNames(source, where), headless


def classifies(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether what its config says, or the names of its tensors, tell that a decoder's head scores
    classes of a text: transformers' classes for that have `SCORES` there."""
    given = config.get("architectures")
    named = [str(name) for name in given] if isinstance(given, list) else []
    if named:
        return any(name.endswith("ForSequenceClassification") for name in named)
    return SCORES in names
