"""A request's pictures on the text side: read, written into the prompt, placed among its ids.

A prompt of a model that takes pictures is checked even if it has none: its text could bring the
model's placeholders, and rows of a tower that there are not would be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rbee_worker.model_info import ModelInfo
from rbee_worker.pictures import Picture
from rbee_worker.session.text import TextSide
from rbee_worker.types import Request

if TYPE_CHECKING:
    from rbee_worker.pictures.reader import Tiles


def settled(info: ModelInfo, text: TextSide) -> ModelInfo:
    """The model takes pictures if its engine reads them and its files say how they are made; a note
    says what is missing."""
    if not info.purpose.pictures or text.pictures is not None:
        return info
    why = text.no_pictures or "no preprocessor_config.json says how they are resized and cut"
    note = f"pictures are refused: {why}"
    purpose = replace(info.purpose, pictures=False)
    return replace(info, purpose=purpose, notes=(*info.notes, note))


def read_pictures(request: Request, text: TextSide) -> tuple[Tiles, ...]:
    """The request's pictures, resized and cut. Raises InvalidRequest."""
    if not request.pictures:
        return ()
    assert text.pictures is not None, "check_request has refused them"
    return text.pictures.read(request.pictures)


def with_pictures(prompt: str, tiles: Sequence[Tiles], text: TextSide, field: str) -> str:
    """The prompt with each placeholder written out for its picture. Raises InvalidRequest."""
    return prompt if text.pictures is None else text.pictures.written(prompt, tiles, field)


def placed(
    ids: Sequence[int], tiles: Sequence[Tiles], text: TextSide, field: str
) -> tuple[Picture, ...]:
    """The pictures at their places in the prompt. Raises InvalidRequest."""
    return () if text.pictures is None else text.pictures.placed(ids, tiles, field)
