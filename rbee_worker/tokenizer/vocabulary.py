"""A vocabulary as a list of pieces, and the backends of the `tokenizers` library made from it.

GGUF metadata and SentencePiece models both become a `Vocabulary`; the modules that read them handle
the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from math import inf, isfinite

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.charsmap import check_charsmap
from rbee_worker.tokenizer.pieces import META, Decoding, byte_alphabet
from rbee_worker.tokenizer.pretokenizers import Pre, Step


class PieceType(IntEnum):
    """SentencePiece's piece types, which GGUF's `token_type` uses too."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


Merges = list[tuple[str, str]]

_AGAIN = "convert or download the model again"
_MOST_CUTS = 1 << 27  # characters examined for ways to make pieces; published ones need 2^24
_SPECIAL = (PieceType.UNKNOWN, PieceType.CONTROL)


@dataclass(frozen=True)
class Vocabulary:
    """pieces[i] is token i. scores: log-probabilities or merge priorities, one per piece."""

    pieces: Sequence[str]
    types: Sequence[int] = ()
    scores: Sequence[float] = ()
    rstrip: frozenset[str] = field(default_factory=frozenset)  # specials that swallow spaces after

    def of_type(self, *types: PieceType) -> list[int]:
        """Ids whose type is one of `types`."""
        return [i for i, t in enumerate(self.types) if t in types]

    @property
    def special_ids(self) -> list[int]:
        """Control tokens and the unknown token."""
        return self.of_type(*_SPECIAL)

    @cached_property
    def index(self) -> dict[str, int]:
        """Piece -> id; the lower id if two are spelled alike."""
        found = {piece: i for i, piece in enumerate(self.pieces)}
        if len(found) < len(self.pieces):
            found = {p: i for i, p in reversed(list(enumerate(self.pieces)))}
        return found

    @cached_property
    def unknown_id(self) -> int | None:
        """The token for text that the vocabulary cannot spell."""
        return next((i for i, t in enumerate(self.types) if t == PieceType.UNKNOWN), None)


@dataclass(frozen=True)
class Whitespace:
    """What SentencePiece does to spaces before it looks for pieces."""

    prefix: bool = True  # put a space before the text
    every_segment: bool = True  # .. and before the text after each special token
    collapse: bool = False  # reduce runs of spaces to one, and remove them at the ends
    charsmap: bytes = b""  # SentencePiece's compiled character map


def byte_level(vocab: Vocabulary, merges: Merges, pre: Pre) -> tuple[Tokenizer, Decoding]:
    """Byte-level BPE. merges: pairs of tokens that make a token, best first."""
    model = models.BPE(vocab=vocab.index, merges=merges, ignore_merges=pre.ignore_merges)
    backend = Tokenizer(model)
    split_as(backend, pre)
    _add_tokens(backend, vocab)
    return backend, Decoding(alphabet=byte_alphabet())


def split_as(backend: Tokenizer, pre: Pre, *, prefix: bool = False) -> None:
    """Make `backend` split text as the row says. prefix: put a space before the text."""
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    steps = [_component(step, prefix=prefix) for step in pre.steps]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)


def sentencepiece_bpe(
    vocab: Vocabulary, blanks: Whitespace, merges: Merges | None = None
) -> tuple[Tokenizer, Decoding]:
    """SentencePiece BPE: pairs whose union is a piece merge in the order of the piece's score."""
    pairs = merges_by_score(vocab) if merges is None else merges
    unknown = vocab.unknown_id
    fallback = "<0x0A>" in vocab.index
    model = models.BPE(
        vocab=vocab.index,
        merges=pairs,
        unk_token=None if unknown is None else vocab.pieces[unknown],
        fuse_unk=True,
        byte_fallback=fallback,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(_normalizers(blanks))
    if blanks.prefix and not blanks.every_segment:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(META, prepend_scheme="first", split=False)
    _add_tokens(backend, vocab)
    decoding = Decoding(
        meta_is_space=True, byte_fallback=fallback, strip_left=1 if blanks.prefix else 0
    )
    return backend, decoding


def unigram(vocab: Vocabulary, blanks: Whitespace) -> tuple[Tokenizer, Decoding]:
    """SentencePiece unigram: the most likely segmentation by `scores`. Raises CheckpointError."""
    _check_scores(vocab)
    if vocab.unknown_id is None:
        raise CheckpointError("the unigram tokenizer has no unknown token", fix=_AGAIN)
    fallback = "<0x0A>" in vocab.index
    model = models.Unigram(
        list(zip(vocab.pieces, map(float, vocab.scores), strict=True)),
        unk_id=vocab.unknown_id,
        byte_fallback=fallback,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(_normalizers(blanks))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(META, prepend_scheme="never", split=True)
    _add_tokens(backend, vocab)
    decoding = Decoding(meta_is_space=True, byte_fallback=fallback, first_drops_meta=blanks.prefix)
    return backend, decoding


def merges_by_score(vocab: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a piece from two others, in the order of published tokenizer.json files:
    user-defined runs of spaces, then best score first; within one piece, lower ids first.

    Other user-defined pieces and special ones are found before merging and are never merged into.
    """
    _check_scores(vocab)
    find = vocab.index.get
    ranked = [
        (-inf if kind == PieceType.USER_DEFINED else -score, at)
        for at, (kind, score) in enumerate(zip(vocab.types, vocab.scores, strict=True))
        if kind not in _SPECIAL
    ]
    ranked.sort()
    if sum(len(vocab.pieces[at]) ** 2 for _, at in ranked) > _MOST_CUTS:
        raise CheckpointError("the tokenizer's pieces are too long to be words", fix=_AGAIN)
    merges: list[tuple[str, str]] = []
    for rank, at in ranked:
        piece = vocab.pieces[at]
        if rank == -inf and piece.strip(META):
            continue
        ways = []
        for cut in range(1, len(piece)):
            left = piece[:cut]
            if (first := find(left)) is not None:
                right = piece[cut:]
                if (second := find(right)) is not None:
                    ways.append((first, second, left, right))
        if len(ways) > 1:
            ways.sort()
        merges += [(left, right) for _, _, left, right in ways]
    return merges


def _normalizers(blanks: Whitespace) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if blanks.charsmap:
        steps.append(normalizers.Precompiled(check_charsmap(blanks.charsmap)))
    if blanks.collapse:
        ends = normalizers.Replace(Regex(r"\A +| +\z"), "")
        steps += [ends, normalizers.Replace(Regex(" {2,}"), " ")]
    if blanks.prefix and blanks.every_segment:
        steps.append(normalizers.Prepend(META))
    return [*steps, normalizers.Replace(" ", META)]


def _component(step: Step, *, prefix: bool) -> pre_tokenizers.PreTokenizer:
    match step:
        case Step("split", str(pattern)):
            return pre_tokenizers.Split(Regex(pattern), "isolated")
        case Step("digits", bool(individual)):
            return pre_tokenizers.Digits(individual_digits=individual)
        case Step("punctuation", str(behaviour)):
            return pre_tokenizers.Punctuation(behaviour)
        case Step("byte_level", bool(regex)):
            return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    raise AssertionError(step)


def _add_tokens(backend: Tokenizer, vocab: Vocabulary) -> None:
    """Add the pieces that are found in text before it is split: special and user-defined."""
    added = [
        AddedToken(
            vocab.pieces[i],
            special=vocab.types[i] != PieceType.USER_DEFINED,
            normalized=False,
            rstrip=vocab.pieces[i] in vocab.rstrip,
        )
        for i in vocab.of_type(*_SPECIAL, PieceType.USER_DEFINED)
    ]
    backend.add_tokens(added)


def usable_merges(merges: Sequence[str], vocab: Vocabulary) -> tuple[Merges, int]:
    """The merges that are pairs of tokens that make a token, best first, and the number of others.

    A piece may begin with a space, so the separator is searched from the second character. Raises
    CheckpointError if most merges are unusable: then they belong to another vocabulary.
    """
    index = vocab.index
    pairs: dict[tuple[str, str], None] = {}
    for merge in merges:
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut > 0 and left in index and right in index and left + right in index:
            pairs.setdefault((left, right))
    unusable, count = len(merges) - len(pairs), len(merges)
    if unusable > count // 2:
        raise CheckpointError(
            f"the tokenizer's merges do not fit its vocabulary: {unusable} of {count} are not two "
            "tokens that make a third",
            fix=_AGAIN,
        )
    return [*pairs], unusable


def _check_scores(vocab: Vocabulary) -> None:
    if not all(map(isfinite, vocab.scores)):
        raise CheckpointError("the tokenizer's scores are not all finite", fix=_AGAIN)
