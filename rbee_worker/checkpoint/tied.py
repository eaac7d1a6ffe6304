"""Tied embeddings: what holds where the config and the tensors disagree about them.

The rule is that of transformers (modeling_utils.tie_weights, version 5): a tie holds only if the
files do not contradict it. If both tensors are in the files and differ, each is used as it is. If
only the output head was saved, it is used as the embedding too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rbee_worker.checkpoint.formats import Packed, TensorSource
from rbee_worker.checkpoint.other_names import OtherNames

HEAD = "lm_head.weight"
# Names of the embedding in the families.
EMBEDDINGS = (
    "model.embed_tokens.weight",
    "transformer.word_embeddings.weight",
    "transformer.wte.weight",
    "backbone.embeddings.weight",
    "shared.weight",
    "transformer.embeddings.word_embeddings.weight",
)
# Architectures that tie the two unless the config says otherwise.
TIED_BY_DEFAULT = frozenset(
    {
        *("gemma", "gemma2", "gemma3_text", "gemma4_text", "smollm3", "starcoder2", "cohere"),
        *("falcon", "mpt", "gpt_bigcode", "mamba", "falcon_mamba"),
        *("lfm2", "lfm2_moe", "recurrent_gemma", "t5", "mt5", "umt5", "based"),
    }
)
_KEY = "tie_word_embeddings"
_ROWS = 4096  # rows compared at once


def settle(
    arch: str, config: Mapping[str, Any], source: TensorSource
) -> tuple[dict[str, Any], TensorSource, tuple[str, ...]]:
    """Config, tensors and notes, with the config corrected by what the tensors show."""
    said = config.get(_KEY)
    names = set(source.names())
    embedding = next((name for name in EMBEDDINGS if name in names), "")
    if said is False or (said is None and arch not in TIED_BY_DEFAULT) or HEAD not in names:
        return dict(config), source, ()
    if not embedding:
        note = f"the files have no embedding: {HEAD}, which is tied to it, is used for both"
        embedding = _embedding_of(names)  # the head is listed under this name alone
        where = {embedding if name == HEAD else name: name for name in source.names()}
        return dict(config), OtherNames(source, where), (note,)
    if _equal(source.read(embedding), source.read(HEAD)):
        return dict(config), source, ()
    note = (
        f"the config ties the output head to the embedding, but {HEAD} and {embedding} differ: "
        "each is used as it is, as in transformers"
    )
    return {**config, _KEY: False}, source, (note,)


def _embedding_of(names: set[str]) -> str:
    """The name of the missing embedding, guessed from the names of the other tensors."""
    if any(name.startswith("transformer.") for name in names):
        if any(".mixer." in name for name in names):
            return EMBEDDINGS[5]
        falcon = any(".self_attention." in name for name in names)
        return EMBEDDINGS[1] if falcon else EMBEDDINGS[2]
    return EMBEDDINGS[3] if any(name.startswith("backbone.") for name in names) else EMBEDDINGS[0]


def _equal(one: Packed, other: Packed) -> bool:
    """Whether two tensors have the same bytes. Compares in pieces: most differ in the first."""
    if (one.format, one.shape) != (other.format, other.shape):
        return False
    return all(
        np.array_equal(one.data[at : at + _ROWS], other.data[at : at + _ROWS])
        for at in range(0, len(one.data), _ROWS)
    )
