"""Tables that map other files' names of keys and tensors to Hugging Face's. Data only.

A new family is a row in one of the modules here, built from shared rows and a few of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rbee_worker.checkpoint.names import (
    deepseek,
    dense,
    encoders,
    gemma,
    gemma4,
    gpt,
    gptoss,
    hybrid,
    jamba,
    lfm2,
    llama,
    llama4,
    mixtures,
    nemotron_h,
    pairs,
    qwen3_next,
    recurrent,
    rwkv,
)
from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.dialects import DIALECTS, Dialect
from rbee_worker.checkpoint.names.rows import GENERATION_KEYS, INERT_KEYS, TOKENIZER_KEYS

__all__ = [
    "DIALECTS",
    "GENERATION_KEYS",
    "GGUF_ARCHITECTURES",
    "INERT_KEYS",
    "TOKENIZER_KEYS",
    "Architecture",
    "Dialect",
    "Key",
    "Row",
]

GGUF_ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    llama.ARCHITECTURES
    | gemma.ARCHITECTURES
    | gemma4.ARCHITECTURES
    | dense.ARCHITECTURES
    | gpt.ARCHITECTURES
    | deepseek.ARCHITECTURES
    | gptoss.ARCHITECTURES
    | llama4.ARCHITECTURES
    | mixtures.ARCHITECTURES
    | recurrent.ARCHITECTURES
    | hybrid.ARCHITECTURES
    | nemotron_h.ARCHITECTURES
    | lfm2.ARCHITECTURES
    | jamba.ARCHITECTURES
    | qwen3_next.ARCHITECTURES
    | rwkv.ARCHITECTURES
    | encoders.ARCHITECTURES
    | pairs.ARCHITECTURES
)
