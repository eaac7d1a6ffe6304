"""How a model's processor writes a picture into a prompt: markers, and a token for each row of the
tower.

A chat template writes one placeholder for each picture. The processor puts a longer text in its
place, in which the same token is repeated; the tower's rows go where that token is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import CheckpointError

Find = Callable[[str], int | None]  # the id of a token's text


@dataclass(frozen=True)
class Grid:
    """How many tiles a picture has, the whole picture aside."""

    rows: int
    columns: int


@dataclass(frozen=True)
class PicturePrompt:
    """placeholder: of one picture, in what a chat template renders. token: the text of the token
    that is repeated, `token_id`; rows: how often for one tile. write: the text of one picture.
    most: pictures that a prompt may have, None: any number."""

    placeholder: str
    token: str
    token_id: int
    rows: int
    write: Callable[[Grid], str]
    most: int | None = None


def idefics3(config: Mapping[str, Any], names: Mapping[str, Any], find: Find) -> PicturePrompt:
    """Idefics 3 and SmolVLM: tiles row by row, each with its place, then the whole picture."""
    token = str(names.get("image_token", "<image>"))
    fake = str(names.get("fake_image_token", "<fake_token_around_image>"))
    whole = str(names.get("global_image_token", "<global-img>"))
    rows = _count(config, "image_seq_len", 169)
    run = token * rows

    def write(grid: Grid) -> str:
        last = f"{fake}{whole}{run}{fake}"
        if not grid.rows:
            return last
        lines = [
            "".join(f"{fake}<row_{y + 1}_col_{x + 1}>{run}" for x in range(grid.columns)) + "\n"
            for y in range(grid.rows)
        ]
        return "".join(lines) + "\n" + last

    return PicturePrompt(token, token, _known(find, token, fake), rows, write)


def gemma3(config: Mapping[str, Any], names: Mapping[str, Any], find: Find) -> PicturePrompt:
    """Gemma 3: the whole picture, then its crops with a few words about them."""
    opening = str(names.get("boi_token", "<start_of_image>"))
    closing = str(names.get("eoi_token", "<end_of_image>"))
    token = str(names.get("image_token", "<image_soft_token>"))
    rows = _count(config, "image_seq_length", 256)
    one = f"\n\n{opening}{token * rows}{closing}\n\n"

    def write(grid: Grid) -> str:
        crops = grid.rows * grid.columns
        if not crops:
            return one
        parts = " ".join([one] * crops)
        return (
            f"Here is the original image {one} and here are some crops to help you see better "
            f"{parts}"
        )

    return PicturePrompt(opening, token, _known(find, token, opening, closing), rows, write)


def moondream(config: Mapping[str, Any], names: Mapping[str, Any], find: Find) -> PicturePrompt:
    """Moondream: its rows and nothing around them; its code takes one picture."""
    token = str(names.get("image_token", "<image>"))
    rows = _count(config, "rows", 729)
    run = token * rows
    return PicturePrompt(token, token, _known(find, token), rows, lambda grid: run, most=1)


PROMPTS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], Find], PicturePrompt]] = {
    "idefics3": idefics3,
    "gemma3": gemma3,
    "moondream": moondream,
}


def _known(find: Find, token: str, *others: str) -> int:
    """The id of `token`; all of these must be tokens."""
    ids = {text: find(text) for text in (token, *others)}
    for text, known in ids.items():
        if known is None:
            raise CheckpointError(
                f"the tokenizer has no token {text[:40]!r}, which pictures need.",
                fix="use the model's own tokenizer files",
            )
    found = ids[token]
    assert found is not None
    return found


def _count(config: Mapping[str, Any], name: str, usual: int) -> int:
    value = config.get(name, usual)
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise CheckpointError(
            f"processor_config.json has {name} = {str(value)[:40]!r}.", fix="a number of tokens"
        )
    return value
