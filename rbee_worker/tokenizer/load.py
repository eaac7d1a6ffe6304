"""From a checkpoint to its tokenizer: tokenizer.json, tokenizer.model or GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.gguf import tokenizer_from_gguf
from rbee_worker.tokenizer.pieces import Decoding, decoding_of
from rbee_worker.tokenizer.spm import read_sentencepiece


class HasMetadata(Protocol):
    """A GGUF file, as far as the tokenizer cares."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...


class TokenizerSource(Protocol):
    """What a tokenizer needs of a `Checkpoint`."""

    @property
    def ref(self) -> str: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def generation(self) -> dict[str, Any]: ...
    @property
    def tokenizer_config(self) -> dict[str, Any]: ...
    @property
    def files(self) -> dict[str, Path]: ...
    @property
    def gguf(self) -> HasMetadata | None: ...


_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def load_tokenizer(ckpt: TokenizerSource) -> Tokenizer:
    """The checkpoint's tokenizer. A tokenizer.json comes before the other sources.

    Raises CheckpointError where there is none or it is damaged, UnsupportedModel where it is of a
    kind this worker does not have.
    """
    if "tokenizer.json" in ckpt.files:
        return _from_json(ckpt)
    for name in _SENTENCEPIECE:
        if name in ckpt.files:
            return _from_sentencepiece(ckpt, ckpt.files[name])
    if ckpt.gguf is not None:
        return tokenizer_from_gguf(ckpt.gguf.metadata)
    raise CheckpointError(
        f"{ckpt.ref}: no tokenizer found (looked for tokenizer.json, {', '.join(_SENTENCEPIECE)})",
        fix="copy tokenizer.json from the model's page next to config.json",
    )


def _from_json(ckpt: TokenizerSource) -> Tokenizer:
    path = ckpt.files["tokenizer.json"]
    try:
        text = path.read_text(encoding="utf-8")
        backend = tokenizers.Tokenizer.from_str(text)
        decoder = json.loads(text).get("decoder")
    except Exception as e:  # the library raises bare Exception
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(
            f"{path.name} cannot be read: {reason}", fix="download tokenizer.json again"
        ) from e
    return _finish(ckpt, backend, decoding_of(decoder))


def _from_sentencepiece(ckpt: TokenizerSource, path: Path) -> Tokenizer:
    model = read_sentencepiece(path.read_bytes())
    legacy = ckpt.tokenizer_config.get("legacy", True)
    backend, decoding = model.build(every_segment=legacy is not False)
    bpe = decoding.strip_left > 0 or not decoding.first_drops_meta
    bos = _token_of(ckpt, backend, "bos_token", model.bos_id)
    eos = _token_of(ckpt, backend, "eos_token", model.eos_id)
    # SentencePiece BPE models of the Llama kind open with BOS, unigram ones of the T5 kind close
    # with EOS, unless tokenizer_config.json says otherwise.
    defaults = ((bos,) if bpe and bos is not None else (), () if bpe or eos is None else (eos,))
    return _finish(ckpt, backend, decoding, bos=bos, eos=eos, affixes=defaults)


def _finish(
    ckpt: TokenizerSource,
    backend: tokenizers.Tokenizer,
    decoding: Decoding,
    *,
    bos: int | None = None,
    eos: int | None = None,
    affixes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> Tokenizer:
    warnings = _add_configured(ckpt, backend)
    bos = _token_of(ckpt, backend, "bos_token", bos)
    eos = _token_of(ckpt, backend, "eos_token", eos)
    pieces: list[str | None] = [None] * (max(backend.get_vocab().values(), default=-1) + 1)
    for piece, i in backend.get_vocab().items():
        pieces[i] = piece
    special = [i for i, t in backend.get_added_tokens_decoder().items() if t.special]
    return Tokenizer(
        backend,
        decoding,
        pieces=pieces,
        special_ids=special,
        bos_id=bos,
        eos_id=eos,
        affixes=_affixes(ckpt.tokenizer_config, bos, eos, affixes),
        chat_templates=_templates(ckpt),
        warnings=tuple(warnings),
    )


def _affixes(
    config: Mapping[str, Any],
    bos: int | None,
    eos: int | None,
    default: tuple[tuple[int, ...], tuple[int, ...]] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """tokenizer_config.json's add_bos_token and add_eos_token replace the post-processor."""
    said = {"bos": config.get("add_bos_token"), "eos": config.get("add_eos_token")}
    if said["bos"] is None and said["eos"] is None:
        return default
    before: tuple[int, ...] = (bos,) if said["bos"] and bos is not None else ()
    after: tuple[int, ...] = (eos,) if said["eos"] and eos is not None else ()
    if default is not None:  # only one of the two is said
        before = default[0] if said["bos"] is None else before
        after = default[1] if said["eos"] is None else after
    return before, after


def _add_configured(ckpt: TokenizerSource, backend: tokenizers.Tokenizer) -> list[str]:
    """Tokens that tokenizer_config.json adds to those of the vocabulary. Returns warnings."""
    config = ckpt.tokenizer_config
    known = {t.content for t in backend.get_added_tokens_decoder().values()}
    wanted: dict[str, AddedToken] = {}
    placed: dict[str, int] = {}
    listed = config.get("added_tokens_decoder") or {}
    for key, entry in sorted(listed.items(), key=lambda item: int(item[0])):
        token = _added_token(entry)
        if token is not None and token.content not in known:
            wanted[token.content] = token
            placed[token.content] = int(key)
    more = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    named = [config.get(name) for name in _NAMED]
    for entry in (*named, *(more.values() if isinstance(more, dict) else more)):
        token = _added_token(entry)
        if token is not None and token.content not in known:
            token.special = True
            wanted.setdefault(token.content, token)
    if wanted:
        backend.add_tokens(list(wanted.values()))
    moved = [t for t, i in placed.items() if backend.token_to_id(t) != i]
    return (
        [f"tokenizer_config.json places {len(moved)} tokens at ids the vocabulary does not give"]
        if moved
        else []
    )


def _added_token(entry: Any) -> AddedToken | None:
    """A token as tokenizer_config.json writes it: its text, or an object with its properties."""
    if isinstance(entry, str):
        return AddedToken(entry, special=True, normalized=False) if entry else None
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        options = {k: bool(entry[k]) for k in flags if k in entry}
        return AddedToken(entry["content"], **options) if entry["content"] else None
    return None


def _token_of(
    ckpt: TokenizerSource, backend: tokenizers.Tokenizer, name: str, default: int | None
) -> int | None:
    """The id of a named token: tokenizer_config.json, else `default`, else config.json."""
    entry = ckpt.tokenizer_config.get(name)
    text = entry.get("content") if isinstance(entry, dict) else entry
    if isinstance(text, str):
        found: int | None = backend.token_to_id(text)
        if found is not None:
            return found
    if default is not None or name in ckpt.tokenizer_config:
        return default
    ids = ckpt.config.get(f"{name}_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    return first if isinstance(first, int) and backend.id_to_token(first) is not None else None


def _templates(ckpt: TokenizerSource) -> dict[str, str]:
    """chat_template.jinja, else the string or the named list in tokenizer_config.json."""
    if (path := ckpt.files.get("chat_template.jinja")) is not None:
        return {"default": path.read_text(encoding="utf-8")}
    entry = ckpt.tokenizer_config.get("chat_template")
    if isinstance(entry, str):
        return {"default": entry}
    named: Iterable[Any] = entry if isinstance(entry, list) else ()
    return {
        item["name"]: item["template"]
        for item in named
        if isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("template"), str)
    }
