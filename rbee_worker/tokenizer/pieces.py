"""From a vocabulary entry to the bytes it stands for, which decoding concatenates.

Decoding is the concatenation of token bytes plus at most two rules at the start of a sequence, so a
stream can do it token by token. This module knows the decoders of `tokenizer.json` that have this
form; any other is refused by name.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import UnsupportedModel

META = "\u2581"  # ▁, SentencePiece's mark for a space
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\ufffd"
# The stages of a decoder's steps: on single pieces, then joined, then on the whole text.
_ORDER = {"Replace": 0, "Metaspace": 0, "ByteLevel": 0, "ByteFallback": 1, "Fuse": 2, "Strip": 3}


# What WordPiece's decoder puts in place of what, in this order.
_TIDY = (
    *((b" " + mark, mark) for mark in (b".", b"?", b"!", b",")),
    (b" ' ", b"'"),
    (b" n't", b"n't"),
    (b" 'm", b"'m"),
    (b" do not", b" don't"),
    *((b" '" + end, b"'" + end) for end in (b"s", b"ve", b"re")),
)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: character -> byte. Visible Latin-1 characters stand for
    themselves; the other 68 bytes, in order, have the characters from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(visible))
    return {
        **{chr(b): b for b in visible},
        **{chr(0x100 + i): b for i, b in enumerate(hidden)},
    }


@dataclass(frozen=True)
class Decoding:
    """How pieces become text. By default, pieces are the text itself."""

    alphabet: dict[str, int] | None = None  # byte-level: each character is one byte
    meta_is_space: bool = False  # ▁ stands for a space
    byte_fallback: bool = False  # <0xAB> stands for one byte
    strip_left: int = 0  # spaces to drop from the start of the text
    first_drops_meta: bool = False  # the first token loses its ▁
    joiner: bytes = b""  # between tokens
    continues: str = ""  # a piece that starts so has no joiner before it, and stands for the rest
    tidy: bool = False  # no space before punctuation and English endings

    def token_bytes(self, piece: str, *, first: bool = False) -> bytes:
        """The bytes of one piece; first: whether it opens the sequence."""
        if self.alphabet is not None:
            # A piece with a character outside the alphabet (an added token) stands for its own
            # text.
            mapped = [self.alphabet.get(c, -1) for c in piece]
            return piece.encode() if -1 in mapped else bytes(mapped)
        if self.byte_fallback and (m := _BYTE_PIECE.fullmatch(piece)):
            return bytes((int(m[1], 16),))
        if self.meta_is_space:
            piece = piece.replace(META, "" if first and self.first_drops_meta else " ")
        if self.continues and not first:
            piece = piece.removeprefix(self.continues)
        return self._tidied(piece.encode()) if first else piece.encode()

    def joined(self, piece: str) -> bytes:
        """The bytes of a piece after another one."""
        if self.continues and piece.startswith(self.continues):
            return self.token_bytes(piece)
        return self._tidied(self.joiner + self.token_bytes(piece))

    def _tidied(self, data: bytes) -> bytes:
        for untidy, tidy in _TIDY if self.tidy else ():
            data = data.replace(untidy, tidy)
        return data


def decoding_of(decoder: dict[str, Any] | None) -> Decoding:
    """The `decoder` object of a tokenizer.json as a `Decoding`.

    Raises UnsupportedModel for a decoder that is not a concatenation.
    """
    if decoder is None:
        return Decoding(joiner=b" ")
    if decoder["type"] == "WordPiece":
        tidy = decoder.get("cleanup", True) is True
        return Decoding(joiner=b" ", continues=str(decoder.get("prefix", "##")), tidy=tidy)
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    found: dict[str, Any] = {}
    last = -1
    for step in steps:
        kind = step["type"]
        place = _ORDER.get(kind, -1)
        if place <= last:  # unknown, or in a place where it would mean something else
            raise _unsupported(kind)
        last = place
        if kind == "ByteLevel":
            found["alphabet"] = byte_alphabet()
        elif kind == "ByteFallback":
            found["byte_fallback"] = True
        elif kind == "Metaspace" and step.get("replacement", META) == META:
            scheme = step.get("prepend_scheme", "always")
            found |= {"meta_is_space": True, "first_drops_meta": scheme != "never"}
        elif kind == "Replace" and (step["pattern"], step["content"]) == ({"String": META}, " "):
            found["meta_is_space"] = True
        elif kind == "Strip" and (step["content"], step["stop"]) == (" ", 0):
            found["strip_left"] = step["start"]
        elif kind != "Fuse":
            raise _unsupported(kind)
    if "alphabet" in found and len(found) > 1:
        raise _unsupported("ByteLevel")
    if "strip_left" in found and not any(step["type"] == "Fuse" for step in steps):
        raise _unsupported("Strip")
    return Decoding(**found)


def _unsupported(kind: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"the tokenizer's decoder step {kind!r} is not supported in this place",
        fix="convert the tokenizer to a byte-level or SentencePiece one",
    )


class Utf8Stream:
    """Bytes in, complete characters out. A broken byte becomes U+FFFD as soon as that is certain.

    per_byte: one U+FFFD per broken byte (SentencePiece), else one per longest prefix of a character
    that broke off (Unicode, section 3.9; like Python and Rust).
    """

    def __init__(self, *, per_byte: bool = False) -> None:
        self._per_byte = per_byte
        self._held = b""

    @property
    def within(self) -> bool:
        """Whether a character is not complete yet."""
        return bool(self._held)

    def push(self, data: bytes, *, final: bool = False) -> str:
        """The characters that `data` completes; final: an incomplete one becomes U+FFFD."""
        data = self._held + data
        out = ""
        while True:
            try:
                text, used = codecs.utf_8_decode(data, "strict", final)
            except UnicodeDecodeError as e:
                broken = e.end - e.start if self._per_byte else 1
                out += data[: e.start].decode() + REPLACEMENT * broken
                data = data[e.end :]
            else:
                self._held = data[used:]
                return out + text if out else text
