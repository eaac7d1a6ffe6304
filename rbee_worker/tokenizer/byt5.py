"""ByT5's tokenizer: every byte is a token, behind three special ones; sentinels follow the bytes.

As transformers' ByT5Tokenizer, which has no vocabulary file: ids 0 to 2 are the padding, the end
and the unknown token, byte b has the id b + 3, and what else the files name comes from id 259 on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken

from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.pieces import Decoding, byte_alphabet
from rbee_worker.tokenizer.templates import Templates
from rbee_worker.tokenizer.words import Words
from rbee_worker.tokenizer.world import Encoding, spelled

_FIRST = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # by id
_SHIFT = len(_FIRST)
_SENTINELS = 125  # unless the files say otherwise


def byt5_tokenizer(words: Words, templates: Templates) -> Tokenizer:
    """The tokenizer that the files' words describe."""
    special = _special(words)
    backend = Bytes(special)
    pieces: list[str | None] = [None] * (max((*special, _SHIFT + 255)) + 1)
    for byte in range(256):
        pieces[byte + _SHIFT] = spelled(bytes((byte,)))
    for i, token in special.items():
        pieces[i] = token.content
    end = list(_FIRST).index("eos_token")
    return Tokenizer(
        backend,
        Decoding(alphabet=byte_alphabet()),
        pieces=pieces,
        special_ids=special,
        eos_id=end,
        affixes=((), (end,)),
        closes_once=True,
        chat_templates=templates.by_name,
        template_tokens={name: special[i].content for i, name in enumerate(_FIRST)},
        unread={**words.unread, **templates.unread},
        warnings=(*words.notes, *templates.notes),
        literal=lambda: Bytes({}),
    )


def _special(words: Words) -> dict[int, AddedToken]:
    """The tokens that are no bytes, by id."""
    found = dict(words.given)
    for i, (name, usual) in enumerate(_FIRST.items()):
        entry = words.config.get(name)
        if isinstance(entry, dict) and name in words.named:
            found.setdefault(i, words.named[name])
        else:  # a bare text takes the blanks around it
            text = entry if isinstance(entry, str) and entry else usual
            found.setdefault(i, AddedToken(text, lstrip=True, rstrip=True))
    extra: Sequence[AddedToken] = words.extra
    count = words.config.get("extra_ids", _SENTINELS)
    if not extra and type(count) is int and 0 < count <= 1 << 16:
        extra = [AddedToken(f"<extra_id_{n}>", normalized=False) for n in range(count)]
    known = {token.content for token in found.values()}
    at = max((*found, _SHIFT + 255)) + 1
    for token in extra:
        if token.content not in known:
            found[at] = token
            at += 1
    return found


class Bytes:
    """Encodes bytes. special: tokens that are found before, by id."""

    def __init__(self, special: Mapping[int, AddedToken]) -> None:
        self._special = {token.content: (i, token) for i, token in special.items()}
        longest = sorted(self._special, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, longest))) if longest else None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Encoding:
        """The ids of `text`; nothing is added to them. Raises UnicodeEncodeError for lone
        surrogates."""
        ids: list[int] = []
        at, rest_strips = 0, False
        for match in self._split.finditer(text) if self._split is not None else ():
            i, token = self._special[match[0]]
            ids += _plain(text[at : match.start()], rest_strips, token.lstrip)
            ids.append(i)
            at, rest_strips = match.end(), token.rstrip
        return Encoding(ids + _plain(text[at:], rest_strips, False))

    def encode_batch_fast(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[Encoding]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    def token_to_id(self, piece: str) -> int | None:
        """The id of a piece, spelled as `spelled` does, or as a special token."""
        if piece in self._special:
            return self._special[piece][0]
        byte = byte_alphabet().get(piece)
        return None if byte is None else byte + _SHIFT

    def no_truncation(self) -> None:
        """Nothing is ever cut."""

    def no_padding(self) -> None:
        """Nothing is ever added."""


def _plain(text: str, left: bool, right: bool) -> list[int]:
    """The ids of a text between special tokens. left, right: whether blanks there belong to
    these."""
    text = text.lstrip() if left else text
    text = text.rstrip() if right else text
    return [byte + _SHIFT for byte in text.encode()]
