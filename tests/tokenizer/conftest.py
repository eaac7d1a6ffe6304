"""Tokenizers trained once a session, each with an outside decoder as oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from tests.tokenizer.builders import (
    Source,
    gguf_of_byte_level,
    train_byte_level,
    train_sentencepiece,
)
from tests.tokenizer.published import PUBLISHED


class Pair(NamedTuple):
    """Ours, and what Hugging Face's decoder makes of ids."""

    ours: Tokenizer
    hf_decode: Callable[[list[int], bool], str]


def _hf_decode(backend: Backend) -> Callable[[list[int], bool], str]:
    return lambda ids, skip: backend.decode(ids, skip_special_tokens=skip)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    made = train_byte_level(*PUBLISHED["qwen2"])
    path = tmp_path_factory.mktemp("byte_level") / "t.gguf"
    ours = load_tokenizer(Source(gguf=gguf_of_byte_level(path, made, "qwen2")))
    return Pair(ours, _hf_decode(Backend.from_str(json.dumps(made))))


def _sentencepiece(path: Path, decoder: decoders.Decoder, kind: str, **options: Any) -> Pair:
    path.write_bytes(train_sentencepiece(kind, **options))
    ours = load_tokenizer(Source(files={"tokenizer.model": path}))
    backend = Backend.from_str(ours._backend.to_str())
    backend.decoder = decoder
    return Pair(ours, _hf_decode(backend))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The decoder of Llama 2's tokenizer.json."""
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    rules = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return _sentencepiece(path, decoder, "bpe", allow_whitespace_only_pieces=True, **rules)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp("t5") / "spiece.model"
    decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    path.parent.mkdir(exist_ok=True)
    return _sentencepiece(path, decoder, "unigram", byte_fallback=False, character_coverage=1.0)


@pytest.fixture(scope="session")
def smollm2() -> Checkpoint:
    """The default model, fetched through its alias as a user's is."""
    return open_checkpoint("smollm2")
