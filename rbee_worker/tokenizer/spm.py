"""A tokenizer from a SentencePiece model file (`tokenizer.model`, `spiece.model`).

The file is one protobuf message. Only a dozen of its fields matter, so they are read here rather
than with a protobuf package. Field numbers: sentencepiece_model.proto of SentencePiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer as Backend

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.tokenizer.pieces import Decoding
from rbee_worker.tokenizer.vocabulary import (
    PieceType,
    Vocabulary,
    Whitespace,
    sentencepiece_bpe,
    unigram,
)

_UNIGRAM, _BPE = 1, 2
_Value = int | bytes


@dataclass
class SentencePieceModel:
    """The content of a model file. An id is None if the model has no such token."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    kind: int = _UNIGRAM
    bos_id: int | None = 1
    eos_id: int | None = 2
    charsmap: bytes = b""
    prefix: bool = True
    collapse: bool = True

    @property
    def is_bpe(self) -> bool:
        return self.kind == _BPE

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.pieces, self.types, self.scores)

    def build(self, *, every_segment: bool = True) -> tuple[Backend, Decoding]:
        """The backend. every_segment: put a space before each segment between special tokens
        (Hugging Face's "legacy" behaviour), not just before the text."""
        build = _BUILD.get(self.kind)
        if build is None:
            raise UnsupportedModel(
                f"SentencePiece model type {self.kind} is not supported (BPE and unigram are)",
                fix="use a checkpoint that has a tokenizer.json",
            )
        blanks = Whitespace(self.prefix, every_segment, self.collapse, self.charsmap)
        return build(self.vocabulary, blanks)


_BUILD = {_UNIGRAM: unigram, _BPE: sentencepiece_bpe}


def read_sentencepiece(data: bytes) -> SentencePieceModel:
    """Parse a model file. Raises CheckpointError for one that is damaged."""
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                _piece(model, _message(value))
            elif number == 2:
                _trainer(model, _message(value))
            elif number == 3:
                _normalizer(model, _message(value))
    except (IndexError, ValueError, struct.error) as e:
        raise CheckpointError(
            "the SentencePiece model is damaged: it is not a complete protobuf message",
            fix="download tokenizer.model again",
        ) from e
    if not model.pieces:
        raise CheckpointError(
            "the SentencePiece model has no pieces", fix="download tokenizer.model again"
        )
    size = len(model.pieces)
    return replace(
        model,
        bos_id=model.bos_id if model.bos_id is not None and 0 <= model.bos_id < size else None,
        eos_id=model.eos_id if model.eos_id is not None and 0 <= model.eos_id < size else None,
    )


def _piece(model: SentencePieceModel, data: bytes) -> None:
    piece, score, kind = "", 0.0, int(PieceType.NORMAL)
    for number, value in _fields(data):
        if number == 1:
            piece = _message(value).decode()
        elif number == 2:
            (score,) = struct.unpack("<f", _message(value))
        elif number == 3:
            kind = _number(value)
    model.pieces.append(piece)
    model.scores.append(score)
    model.types.append(kind)


def _trainer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 3:
            model.kind = _number(value)
        elif number == 41:
            model.bos_id = _number(value)
        elif number == 42:
            model.eos_id = _number(value)


def _normalizer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2:
            model.charsmap = _message(value)
        elif number == 3:
            model.prefix = bool(_number(value))
        elif number == 4:
            model.collapse = bool(_number(value))


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """(field number, value) for each field of a message: varints as int, all else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("past the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _message(value: _Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _number(value: _Value) -> int:
    """A varint as the signed 32-bit number that these fields hold."""
    if isinstance(value, bytes):
        raise ValueError("bytes where a number belongs")
    return value - (1 << 64) if value >= 1 << 63 else value
