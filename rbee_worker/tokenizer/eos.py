"""Which ids end a sequence, and which file says so: the union of all sources, never a single
one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.gguf_keys import NO_ID
from rbee_worker.tokenizer.source import TokenizerSource
from rbee_worker.tokenizer.turns import END_OF_TURN, NOT_AMONG
from rbee_worker.types import EosToken

_GGUF_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_GGUF_LISTS = ("eos_token_ids", "eog_token_ids")
VOCABULARY = "vocabulary"  # origin of an id that is found by its text


def eos_set(ckpt: TokenizerSource, tokenizer: Tokenizer) -> tuple[EosToken, ...]:
    """Every id that ends a sequence, in order of id, each with all its origins.

    Raises CheckpointError for an id outside the vocabulary.
    """
    origins: dict[int, list[str]] = {}
    for token_id, origin in (*_configured(ckpt), *_by_text(ckpt, tokenizer)):
        if not tokenizer.has(token_id):
            raise CheckpointError(
                f"{origin} names the end token {token_id}, outside the vocabulary of "
                f"{tokenizer.vocab_size} tokens",
                fix="correct the id, or use the tokenizer that belongs to this model",
            )
        known = origins.setdefault(token_id, [])
        if origin not in known:
            known.append(origin)
    return tuple(
        EosToken(id=i, text=tokenizer.token_text(i), origins=tuple(origins[i]))
        for i in sorted(origins)
    )


def template_special_ids(template: str | None, tokenizer: Tokenizer) -> frozenset[int]:
    """Special tokens that a chat template spells out or writes as variables."""
    if not template:
        return frozenset()
    used = [text for name, text in tokenizer.template_tokens.items() if name in template]
    named = {i for text in used if (i := tokenizer.token_id(text)) is not None}
    return frozenset(
        i for i in tokenizer.special_ids if (text := tokenizer.token_text(i)) and text in template
    ) | (named & tokenizer.special_ids)


def _configured(ckpt: TokenizerSource) -> Iterator[tuple[int, str]]:
    # A GGUF file's config comes from its metadata: its ids are reported under the metadata's keys.
    if ckpt.gguf is None:
        for name, source in (
            ("config.json", ckpt.config),
            ("generation_config.json", ckpt.generation),
        ):
            yield from ((i, name) for i in _ids(source.get("eos_token_id"), name))
        return
    for key in (*_GGUF_KEYS, *_GGUF_LISTS):
        name = f"tokenizer.ggml.{key}"
        ids = _ids(ckpt.gguf.metadata.get(name), name)
        yield from ((i, f"gguf:{name}") for i in ids if i not in NO_ID)


def _by_text(ckpt: TokenizerSource, tokenizer: Tokenizer) -> Iterator[tuple[int, str]]:
    if "eos_token" in ckpt.tokenizer_config and tokenizer.eos_id is not None:
        yield tokenizer.eos_id, "tokenizer_config.json"
    special = {tokenizer.token_text(i): i for i in tokenizer.special_ids}
    for text in END_OF_TURN:
        others = NOT_AMONG.get(text)
        if others and all(other in special for other in others):
            continue
        if text in special:
            yield special[text], VOCABULARY


def _ids(value: Any, where: str) -> list[int]:
    """The ids in a value that is an id, a list of ids, or nothing."""
    if value is None:
        return []
    listed = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in listed):
        raise CheckpointError(
            f"eos_token_id in {where} is neither an id nor a list of ids", fix="correct the file"
        )
    return list(listed)
