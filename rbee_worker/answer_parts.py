"""The parts that an answer comes in: text, reasoning, and pieces of tool calls, joined or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct


class CallPiece(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A piece of one tool call. The call's first piece has its id and the tool's name; the
    `arguments` of all its pieces, joined, are one JSON object (if the answer was not cut short)."""

    index: int  # number of the call in this answer
    id: str = ""
    name: str = ""
    arguments: str = ""


# A piece of an answer: ("text" or "reasoning", characters), or a piece of a tool call.
Part = tuple[str, str] | CallPiece


def merged_calls(pieces: Sequence[CallPiece]) -> tuple[CallPiece, ...]:
    """The pieces with neighbours of one call joined."""
    if len(pieces) < 2:
        return tuple(pieces)
    joined: list[CallPiece] = []
    for index, group in groupby(pieces, key=lambda piece: piece.index):
        first, *others = group
        text = first.arguments + "".join(piece.arguments for piece in others)
        joined.append(CallPiece(index=index, id=first.id, name=first.name, arguments=text))
    return tuple(joined)


def joined_calls(pieces: Iterable[CallPiece]) -> tuple[CallPiece, ...]:
    """Whole calls, of all their pieces."""
    whole: dict[int, CallPiece] = {}
    for piece in pieces:
        known = whole.get(piece.index, CallPiece(index=piece.index))
        whole[piece.index] = CallPiece(
            index=piece.index,
            id=known.id or piece.id,
            name=known.name or piece.name,
            arguments=known.arguments + piece.arguments,
        )
    return tuple(whole.values())
