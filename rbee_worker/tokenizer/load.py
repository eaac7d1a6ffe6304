"""From a checkpoint to its tokenizer: tokenizer.json, tokenizer.model or GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.core import Tokenizer, is_library_failure
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

# Classes whose add_bos_token and add_eos_token count although the tokenizer.json's post-processor
# adds nothing (DeepSeek's files). With any other class the post-processor alone decides.
_CONFIG_ADDS = frozenset(
    {
        "LlamaTokenizer",
        "LlamaTokenizerFast",
        "CodeLlamaTokenizer",
        "CodeLlamaTokenizerFast",
        "GemmaTokenizer",
        "GemmaTokenizerFast",
        "CohereTokenizerFast",
    }
)

_Affixes = tuple[tuple[int, ...], tuple[int, ...]]


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
    except BaseException as e:
        if not (is_library_failure(e) or isinstance(e, OSError | ValueError | AttributeError)):
            raise
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(
            f"{path.name} cannot be read: {reason}", fix="download tokenizer.json again"
        ) from e
    return _Loading(ckpt, backend).finish(decoding_of(decoder))


def _from_sentencepiece(ckpt: TokenizerSource, path: Path) -> Tokenizer:
    model = read_sentencepiece(path.read_bytes())
    legacy = ckpt.tokenizer_config.get("legacy", True)
    backend, decoding = model.build(every_segment=legacy is not False)
    loading = _Loading(ckpt, backend)
    bos = loading.named("bos_token", model.bos_id)
    eos = loading.named("eos_token", model.eos_id)
    # BPE models (Llama's kind) open with BOS, unigram ones (T5's kind) close with EOS, unless
    # tokenizer_config.json says otherwise.
    opens = loading.config.get("add_bos_token")
    closes = loading.config.get("add_eos_token")
    affixes = (
        _present(bos, model.is_bpe if opens is None else opens),
        _present(eos, not model.is_bpe if closes is None else closes),
    )
    return loading.finish(decoding, bos=bos, eos=eos, affixes=affixes)


def _present(token: int | None, wanted: Any) -> tuple[int, ...]:
    return (token,) if wanted and token is not None else ()


class _Loading:
    """A backend on its way to a `Tokenizer`: what tokenizer_config.json adds to it."""

    def __init__(self, ckpt: TokenizerSource, backend: tokenizers.Tokenizer) -> None:
        self.ckpt = ckpt
        self.backend = backend
        self.config = _config(ckpt)
        self.special: set[str] = set()
        self.warnings: list[str] = []
        self._add_tokens()

    def _add_tokens(self) -> None:
        known = {t.content: t for t in self.backend.get_added_tokens_decoder().values()}
        listed = {
            int(key): token
            for key, entry in (self.config.get("added_tokens_decoder") or {}).items()
            if key.isdecimal() and (token := _added_token(entry)) is not None
        }
        self.backend.add_tokens([t for _, t in sorted(listed.items()) if t.content not in known])
        known |= {t.content: t for t in listed.values() if t.content not in known}
        more = self.config.get("extra_special_tokens")
        more = more or self.config.get("additional_special_tokens") or []
        named = [v for k, v in self.config.items() if k.endswith("_token")]
        found = map(_added_token, (*named, *(more.values() if isinstance(more, dict) else more)))
        # A token already known keeps how it treats the blanks around it.
        special = [known.get(token.content, token) for token in found if token is not None]
        for token in special:
            token.special = True
        self.backend.add_special_tokens(special)
        self.special = {token.content for token in special}
        moved = sum(self.backend.token_to_id(t.content) != i for i, t in listed.items())
        if moved:
            self.warnings.append(
                f"tokenizer_config.json places {moved} tokens at ids the vocabulary does not give"
            )

    def named(self, name: str, default: int | None = None) -> int | None:
        """The id of "bos_token" or the like: tokenizer_config.json, `default`, config.json."""
        token = _added_token(self.config.get(name))
        found = None if token is None else self.backend.token_to_id(token.content)
        if found is not None:
            return int(found)
        if default is not None or name in self.config:
            return default
        ids = self.ckpt.config.get(f"{name}_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and self.backend.id_to_token(first) is not None:
            return first
        return None

    def finish(
        self,
        decoding: Decoding,
        *,
        bos: int | None = None,
        eos: int | None = None,
        affixes: _Affixes | None = None,
    ) -> Tokenizer:
        vocab = self.backend.get_vocab()
        pieces: list[str | None] = [None] * (max(vocab.values(), default=-1) + 1)
        for piece, i in vocab.items():
            pieces[i] = piece
        bos = self.named("bos_token", bos)
        eos = self.named("eos_token", eos)
        added = self.backend.get_added_tokens_decoder().items()
        return Tokenizer(
            self.backend,
            decoding,
            pieces=pieces,
            special_ids=[i for i, t in added if t.special or t.content in self.special],
            bos_id=bos,
            eos_id=eos,
            affixes=affixes or self._configured_affixes(bos, eos),
            chat_templates=_templates(self.ckpt),
            warnings=tuple(self.warnings),
        )

    def _configured_affixes(self, bos: int | None, eos: int | None) -> _Affixes | None:
        if self.config.get("tokenizer_class") not in _CONFIG_ADDS:
            return None
        if self.backend.num_special_tokens_to_add(False):
            return None
        opens, closes = self.config.get("add_bos_token"), self.config.get("add_eos_token")
        return _present(bos, opens), _present(eos, closes)


def _config(ckpt: TokenizerSource) -> dict[str, Any]:
    """tokenizer_config.json; files from before it listed added tokens have a second one."""
    config = ckpt.tokenizer_config
    path = ckpt.files.get("special_tokens_map.json")
    if path is None or "added_tokens_decoder" in config:
        return config
    try:
        older = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise CheckpointError(f"{path.name} is not JSON", fix="download it again") from e
    return {**older, **config} if isinstance(older, dict) else config


def _added_token(entry: Any) -> AddedToken | None:
    """A token as tokenizer_config.json writes it: its text, or an object with its properties."""
    if isinstance(entry, str):
        return AddedToken(entry, special=True, normalized=False) if entry else None
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        options = {k: bool(entry[k]) for k in flags if k in entry}
        return AddedToken(entry["content"], **options) if entry["content"] else None
    return None


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
