"""A tokenizer from GGUF metadata (`tokenizer.ggml.*`).

Key names and defaults: the GGUF specification (ggml, docs/gguf.md) and what llama.cpp assumes
where a file is silent. What this module assumes by itself it says in `warnings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tokenizers import Tokenizer as Backend

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.gguf_encoders import bert, of_roberta
from rbee_worker.tokenizer.gguf_keys import AGAIN, KEY, Metadata, column, token_id
from rbee_worker.tokenizer.pieces import META, Decoding
from rbee_worker.tokenizer.pretokenizers import (
    ALIASES,
    FALLBACK,
    PRE_TOKENIZERS,
    TELLTALES,
    Pre,
)
from rbee_worker.tokenizer.turns import UNMISTAKABLE
from rbee_worker.tokenizer.vocabulary import (
    Merges,
    PieceType,
    Vocabulary,
    Whitespace,
    byte_level,
    sentencepiece_bpe,
    unigram,
    usable_merges,
)
from rbee_worker.tokenizer.wordpiece import marked
from rbee_worker.tokenizer.world import TEMPLATE, unescaped, world_tokenizer

_WORLD = "rwkv"
_TEMPLATE = "tokenizer.chat_template"

# Special tokens after which published Phi-3 tokenizers drop blanks (tokenizer.json: rstrip);
# GGUF has no key for it. general.architecture -> tokens that do not.
_KEEP_BLANKS: dict[str, frozenset[str]] = {
    "phi3": frozenset({"<unk>", "<s>", "<|endoftext|>"}),
}


def tokenizer_from_gguf(meta: Metadata) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises CheckpointError for a file without one or with a damaged one, UnsupportedModel for a
    kind of tokenizer this worker does not have.
    """
    kind = meta.get(KEY + "model")
    if not isinstance(kind, str) or KEY + "tokens" not in meta:
        raise CheckpointError(
            "the GGUF file has no tokenizer (tokenizer.ggml.model and .tokens)",
            fix="use a GGUF that was converted with its vocabulary",
        )
    if kind == _WORLD:
        return _world(meta)
    build = _KINDS.get(kind)
    if build is None:
        raise UnsupportedModel(
            f"tokenizer kind {kind!r} is not supported; supported: {', '.join((*_KINDS, _WORLD))}",
            fix="use the safetensors version of this model",
        )
    warnings: list[str] = []
    vocab = _vocabulary(meta)
    if twins := len(vocab.pieces) - len(vocab.index):
        warnings.append(f"{twins} tokens of the GGUF file are spelled like others: never encoded")
    backend, decoding, adds = build(meta, vocab, warnings)
    if adds is not None and meta.get("general.architecture") == "bert":
        of_roberta(meta, vocab, backend)
        adds = None
    size = len(vocab.pieces)
    ids = {
        "bos": token_id(meta, "bos_token_id", _BOS.get(kind), size, warnings),
        "eos": token_id(meta, "eos_token_id", _EOS.get(kind), size),
    }
    return Tokenizer(
        backend,
        decoding,
        pieces=list(vocab.pieces),
        special_ids=vocab.special_ids,
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        affixes=None if adds is None else _affixes(meta, ids, adds, warnings),
        chat_templates=_templates(meta),
        template_tokens=_template_tokens(meta, ids, vocab),
        warnings=tuple(warnings),
    )


def _world(meta: Metadata) -> Tokenizer:
    """RWKV's tokenizer: tokens are escaped bytes, the end of a text and padding stand for none."""
    vocab, warnings = _vocabulary(meta), []  # type: tuple[Vocabulary, list[str]]
    size, plain = len(vocab.pieces), vocab.of_type(PieceType.NORMAL)
    ids = {
        name: token_id(meta, f"{name}_token_id", None, size, warnings) for name in ("bos", "eos")
    }
    templates = _templates(meta)
    return world_tokenizer(
        {i: unescaped(vocab.pieces[i]) for i in plain},
        {i: vocab.pieces[i] for i in vocab.special_ids},
        bos=ids["bos"],
        eos=ids["eos"],
        opens=bool(meta.get(f"{KEY}add_bos_token", False)),
        templates={k: TEMPLATE if t == "rwkv-world" else t for k, t in templates.items()},
        unread={},
        warnings=warnings,
    )


# .., (adds bos, adds eos) by default; None: the backend itself puts tokens around texts
_Built = tuple[Backend, Decoding, tuple[bool, bool] | None]


def _byte_level(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> _Built:
    merges = _merges(meta, vocab, warnings)
    if merges is None:
        raise CheckpointError(
            "the GGUF file's byte-level tokenizer has no merges (tokenizer.ggml.merges)",
            fix=AGAIN,
        )
    pre = _pre_tokenizer(meta, vocab, warnings)
    return *byte_level(vocab, merges, pre), (pre.add_bos, False)


def _sentencepiece(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> _Built:
    merges = _merges(meta, vocab, warnings)
    if merges is None and len(set(vocab.scores)) < 2:
        warnings.append(
            "the GGUF file's SentencePiece vocabulary has no scores: text is split by token ids "
            "alone, which may not be how the model was trained; convert it from tokenizer.model"
        )
    blanks = _blanks(meta, prefix=True)
    return *sentencepiece_bpe(vocab, blanks, merges), (True, False)


def _gemma4(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> _Built:
    blanks = _blanks(meta, prefix=False)
    return *sentencepiece_bpe(vocab, blanks, _merges(meta, vocab, warnings) or []), (True, False)


def _unigram(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> _Built:
    if not vocab.scores:
        raise CheckpointError(
            "the GGUF file's unigram tokenizer has no scores (tokenizer.ggml.scores)",
            fix=AGAIN,
        )
    return *unigram(vocab, _blanks(meta, prefix=True)), (False, True)


def _merges(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> Merges | None:
    """The file's merges, None where it has none. Some that make no token are left out, as llama.cpp
    does no more with them than fall back to bytes."""
    listed = column(meta, "merges", str)
    if not listed:
        return None
    merges, unusable = usable_merges(listed, vocab)
    if unusable:
        warnings.append(
            f"{unusable} of the GGUF file's {len(listed)} merges are not two tokens that make a "
            "third, or stand there twice: they are left out"
        )
    return merges


_KINDS: dict[str, Callable[[Metadata, Vocabulary, list[str]], _Built]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "gemma4": _gemma4,
    "t5": _unigram,
    "bert": bert,
}
_BOS = {"llama": 1}
_EOS = {"llama": 2, "t5": 1}
_UNK = {"llama": 0, "t5": 2}
# Names in chat templates -> what GGUF keys call them.
_OTHERS = {
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",  # spelled so
    "cls_token": "cls",
    "mask_token": "mask",
}


def _vocabulary(meta: Metadata) -> Vocabulary:
    pieces: list[str] = column(meta, "tokens", str)
    if not pieces:
        raise CheckpointError("the GGUF file's tokenizer has no tokens", fix=AGAIN)
    types: list[int] = list(column(meta, "token_type", int))
    scores: list[float] = [float(score) for score in column(meta, "scores", float, int)]
    for name, values in (("token_type", types), ("scores", scores)):
        if values and len(values) != len(pieces):
            raise CheckpointError(
                f"the GGUF file has {len(pieces)} tokens but {len(values)} entries in {KEY}{name}",
                fix=AGAIN,
            )
    types = types or _types_by_keys(meta, len(pieces))
    if meta[KEY + "model"] in _UNK and PieceType.UNKNOWN not in types:
        unknown = token_id(meta, "unknown_token_id", _UNK[meta[KEY + "model"]], len(pieces))
        types[unknown or 0] = PieceType.UNKNOWN
    # Older converters wrote end-of-turn tokens as user-defined (Gemma's <end_of_turn>).
    for i, kind in enumerate(types):
        if kind == PieceType.USER_DEFINED and pieces[i] in UNMISTAKABLE:
            types[i] = PieceType.CONTROL
    keep = _KEEP_BLANKS.get(str(meta.get("general.architecture")))
    rstrip: frozenset[str] = frozenset()
    if keep is not None and meta[KEY + "model"] == "llama":
        rstrip = frozenset(p for p, t in zip(pieces, types, strict=True) if t == PieceType.CONTROL)
        rstrip -= keep
    if meta[KEY + "model"] == "llama":
        pieces = [_respelled(p, t) for p, t in zip(pieces, types, strict=True)]
    if not scores and meta[KEY + "model"] == "llama":
        scores = [-float(i) for i in range(len(pieces))]
    vocab = Vocabulary(pieces, types, scores, rstrip)
    return replace(vocab, pieces=marked(vocab)) if meta[KEY + "model"] == "bert" else vocab


def _respelled(piece: str, kind: int) -> str:
    """Converters write user-defined runs of blanks as blanks; the model spells them with ▁."""
    blank = kind == PieceType.USER_DEFINED and piece and not piece.strip(" ")
    return META * len(piece) if blank else piece


def _types_by_keys(meta: Metadata, size: int) -> list[int]:
    """Where a file has no token types, the ids its keys name are the special ones."""
    types = [int(PieceType.NORMAL)] * size
    for key, value in meta.items():
        named = key.startswith(KEY) and key.endswith("_token_id")
        if named and isinstance(value, int) and 0 <= value < size:
            types[value] = int(PieceType.CONTROL)
    return types


def _pre_tokenizer(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> Pre:
    name = meta.get(KEY + "pre")
    row = PRE_TOKENIZERS.get(ALIASES.get(str(name), str(name)))
    if row is not None:
        return row
    known = set(vocab.pieces)
    assumed = FALLBACK
    because = "nothing else being known"
    for token, size, candidate in TELLTALES:
        if token in known and len(vocab.pieces) >= size:
            assumed, because = candidate, f"because of its token {token}"
            break
    told = (
        "does not name its pre-tokenizer"
        if name in (None, "default")
        else (f"names a pre-tokenizer {str(name)[:40]!r} that this worker does not know")
    )
    warnings.append(
        f"the GGUF file {told} (tokenizer.ggml.pre): assumed {assumed!r}, {because}. If that is "
        "wrong, text is split in more tokens than the model was trained on and answers get worse"
    )
    return PRE_TOKENIZERS[assumed]


def _blanks(meta: Metadata, *, prefix: bool) -> Whitespace:
    charsmap = column(meta, "precompiled_charsmap", int)
    return Whitespace(
        prefix=bool(meta.get(KEY + "add_space_prefix", prefix)),
        collapse=bool(meta.get(KEY + "remove_extra_whitespaces", False)),
        charsmap=bytes(b & 0xFF for b in charsmap),
    )


def _affixes(
    meta: Metadata, ids: Mapping[str, int | None], adds: tuple[bool, bool], warnings: list[str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for name, default in zip(("bos", "eos"), adds, strict=True):
        said = meta.get(f"{KEY}add_{name}_token")
        token = ids[name]
        if said and token is None:
            warnings.append(
                f"the GGUF file sets {KEY}add_{name}_token but no {name}_token_id: none is added"
            )
        wanted = bool(default if said is None else said)
        found.append((token,) if wanted and token is not None else ())
    return found[0], found[1]


def _template_tokens(
    meta: Metadata, ids: Mapping[str, int | None], vocab: Vocabulary
) -> dict[str, str]:
    """Texts of the tokens that a template knows by name, as far as the file has ids for them."""
    found = {f"{name}_token": i for name, i in ids.items()}
    for name, key in _OTHERS.items():
        found[name] = meta.get(f"{KEY}{key}_token_id")
    size = len(vocab.pieces)
    return {name: vocab.pieces[i] for name, i in found.items() if type(i) is int and 0 <= i < size}


def _templates(meta: Metadata) -> dict[str, str]:
    found = {"default": meta[_TEMPLATE]} if isinstance(meta.get(_TEMPLATE), str) else {}
    for key, value in meta.items():
        if key.startswith(_TEMPLATE + ".") and isinstance(value, str):
            found[key.removeprefix(_TEMPLATE + ".")] = value
    return found
