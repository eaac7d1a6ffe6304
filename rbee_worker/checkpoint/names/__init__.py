"""Tables: how a GGUF file's keys and tensors are called in Hugging Face's vocabulary. Data only.

A new family is a row in one of the modules here, made of shared rows and a few of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rbee_worker.checkpoint.names import dense, gemma, llama
from rbee_worker.checkpoint.names.rows import (
    GENERATION_KEYS,
    INERT_KEYS,
    TOKENIZER_KEYS,
    Architecture,
    Key,
    Row,
)

__all__ = [
    "GENERATION_KEYS",
    "GGUF_ARCHITECTURES",
    "INERT_KEYS",
    "MODEL_TYPE_ALIASES",
    "TOKENIZER_KEYS",
    "Architecture",
    "Key",
    "Row",
]

GGUF_ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    llama.ARCHITECTURES | gemma.ARCHITECTURES | dense.ARCHITECTURES
)

# model_type of config.json -> the one whose files have the same keys, names and maths.
MODEL_TYPE_ALIASES: Mapping[str, str] = MappingProxyType({"Yi": "llama"})
