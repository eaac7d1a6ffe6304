"""BERT's kind of tokenizer: words cut into the longest pieces there are.

From a vocabulary whose pieces inside a word are marked ("##ing"): vocab.txt beside a model; or a
GGUF file's, which marks the first piece of a word instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.pieces import META, Decoding
from rbee_worker.tokenizer.vocabulary import PieceType, Vocabulary

PREFIX = "##"  # of a piece inside a word
_LONGEST = 100  # characters of a word that is cut; a longer one is unknown
_AGAIN = "download the model's files again"


def wordpiece(
    pieces: Sequence[str],
    special: Sequence[int],
    *,
    unknown: str,
    lower: bool,
    accents: bool | None = None,
    chinese: bool = True,
) -> tuple[Tokenizer, Decoding]:
    """The backend of a vocabulary. special: ids of its special tokens. lower: texts are put in
    lower case; accents: they are removed (None: as `lower` says); chinese: each Chinese character
    is a word. Raises CheckpointError for a vocabulary without its own unknown token."""
    index = {piece: i for i, piece in reversed(list(enumerate(pieces)))}
    if unknown not in index:
        raise CheckpointError(f"the vocabulary lacks its unknown token {unknown!r}.", fix=_AGAIN)
    model = models.WordPiece(
        index,
        unk_token=unknown,
        max_input_chars_per_word=_LONGEST,
        continuing_subword_prefix=PREFIX,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lower
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens([AddedToken(pieces[i], normalized=False) for i in special])
    return backend, Decoding(joiner=b" ", continues=PREFIX, tidy=True)


CLASSES = ("BertTokenizer", "DistilBertTokenizer")


def as_configured(backend: Tokenizer, config: Mapping[str, Any]) -> str:
    """Make a tokenizer.json's `backend` treat letters as tokenizer_config.json says, or as BERT's
    class does where it says nothing: transformers' class makes its normalizer of that alone. A note
    if that changes it, else ""."""
    given = backend.normalizer
    if not isinstance(given, normalizers.BertNormalizer):
        return ""
    accents = config.get("strip_accents")
    wanted = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars") is not False,
        strip_accents=accents if isinstance(accents, bool) else None,
        lowercase=config.get("do_lower_case") is not False,
    )
    names = ("lowercase", "strip_accents", "handle_chinese_chars", "clean_text")
    changed = [n for n in names if getattr(given, n) != getattr(wanted, n)]
    if not changed:
        return ""
    backend.normalizer = wanted
    told = ", ".join(f"{name} {getattr(wanted, name)}" for name in changed)
    return f"tokenizer.json's {told}: as transformers' class reads tokenizer_config.json"


def around(backend: Tokenizer, cls: tuple[str, int], sep: tuple[str, int]) -> None:
    """Put BERT's tokens around one text, and around and between two."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls[0]} $A {sep[0]}",
        pair=f"{cls[0]} $A {sep[0]} $B:1 {sep[0]}:1",
        special_tokens=[cls, sep],
    )


def around_roberta(backend: Tokenizer, cls: tuple[str, int], sep: tuple[str, int]) -> None:
    """Put RoBERTa's tokens around one text, and around and between two, which are not told
    apart."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls[0]} $A {sep[0]}",
        pair=f"{cls[0]} $A {sep[0]} {sep[0]} $B {sep[0]}",
        special_tokens=[cls, sep],
    )


def marked(vocab: Vocabulary) -> list[str]:
    """A GGUF file's pieces, marked inside words: converters put `META` before the first piece of a
    word, took the marks away, and left special tokens as they are."""
    special = {*vocab.special_ids}
    return [
        piece
        if i in special
        else piece.removeprefix(META)
        if piece.startswith(META)
        else PREFIX + piece
        for i, piece in enumerate(vocab.pieces)
    ]


def is_cased(vocab: Vocabulary) -> bool:
    """Whether a vocabulary has upper case letters outside its special tokens."""
    return any(
        piece != piece.lower()
        for piece, kind in zip(vocab.pieces, vocab.types, strict=True)
        if kind == PieceType.NORMAL
    )
