"""`Words`: what every token of a model is as text, which is all that constraints need of it."""

from __future__ import annotations

from msgspec import Struct

NOWHERE, NOTHING = -1, -2  # in `Words.opening`: no token has these bytes; there are none


class Words(Struct, frozen=True, kw_only=True, tag="words"):
    """tokens: by id, one for each row of the model's head: the bytes that it adds to a text, b"" if
    there are none; of a special token its name. special: ids that are no text. opening: ids that
    open a text with other bytes than they add later (a tokenizer that drops the first space); for
    each the id that adds those bytes, or NOWHERE, or NOTHING."""

    tokens: tuple[bytes, ...]
    special: tuple[int, ...] = ()
    opening: dict[int, int] = {}
