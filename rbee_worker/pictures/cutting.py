"""A picture resized and cut as the model's processor does it, in Pillow alone.

The steps and their rounding are those of transformers' processors with Pillow (Idefics3, SmolVLM,
Gemma3): the same filter, applied to 8-bit channels in the same order, so every value is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rbee_worker.pictures.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_EDGE = 4096  # to which a processor with tiles limits the longer edge


class Cut(NamedTuple):
    """images: the tiles, all of one size. rows, columns: of the tiles beside the whole picture; 0
    if there are none."""

    images: list[Image]
    rows: int
    columns: int


def cut(image: Image, recipe: Recipe, *, pieces: bool) -> Cut:
    """The tiles of a picture in red, green and blue. pieces: whether it is cut at all."""
    how = {"tiles": _tiles, "crops": _crops, "whole": _whole}[recipe.cutting]
    return how(image, recipe, pieces)


def _tiles(image: Image, recipe: Recipe, pieces: bool) -> Cut:
    """Rows of tiles, then the whole picture; or it alone, if one tile is all of it."""
    edge, resample = recipe.height, recipe.resample
    image = image.resize(_longest(*image.size, recipe.longest), resample)
    if not pieces:
        return Cut([image.resize((edge, edge), resample)], 0, 0)
    image = image.resize(_multiples(*image.size, edge), resample)
    columns, rows = image.width // edge, image.height // edge
    if columns == rows == 1:
        return Cut([image], 0, 0)
    boxes = [(x * edge, y * edge) for y in range(rows) for x in range(columns)]
    tiles = [image.crop((x, y, x + edge, y + edge)) for x, y in boxes]
    return Cut([*tiles, image.resize((edge, edge), resample)], rows, columns)


def _longest(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) with that longer edge; the other one is even, and neither is too long."""
    ratio = width / height
    if width >= height:
        width, height = longest, _even(int(longest / ratio))
    else:
        width, height = _even(int(longest * ratio)), longest
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > _MOST_EDGE:
        width, height = _MOST_EDGE, int(_MOST_EDGE / ratio)
    elif height > width and height > _MOST_EDGE:
        width, height = int(_MOST_EDGE * ratio), _MOST_EDGE
    return max(width, 1), max(height, 1)


def _even(edge: int) -> int:
    return edge + edge % 2


def _multiples(width: int, height: int, edge: int) -> tuple[int, int]:
    """(width, height) as multiples of a tile's edge; the longer one is settled first."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / edge) * edge
        return width, math.ceil(int(width / ratio) / edge) * edge
    height = math.ceil(height / edge) * edge
    return math.ceil(int(height * ratio) / edge) * edge, height


def _whole(image: Image, recipe: Recipe, pieces: bool) -> Cut:
    """The picture as one tile, however long it is."""
    return Cut([image.resize((recipe.width, recipe.height), recipe.resample)], 0, 0)


def _crops(image: Image, recipe: Recipe, pieces: bool) -> Cut:
    """The whole picture, then parts of it along its longer edge."""
    size = (recipe.width, recipe.height)
    boxes = list(_boxes(*image.size, recipe)) if pieces else []
    parts = [image.crop(box) for box in boxes]
    images = [part.resize(size, recipe.resample) for part in (image, *parts)]
    across = image.width >= image.height
    if not boxes:
        return Cut(images, 0, 0)
    return Cut(images, 1, len(boxes)) if across else Cut(images, len(boxes), 1)


def _boxes(width: int, height: int, recipe: Recipe) -> Iterator[tuple[int, int, int, int]]:
    """Where a long picture is cut; nowhere, if it is not long or the parts would be too small."""
    longer, shorter = max(width, height), min(width, height)
    if longer / shorter < recipe.crop_ratio:
        return
    count = min(longer // recipe.smallest_crop, int(longer / shorter + 0.5))
    count = min(recipe.most_crops, max(2, count))
    step = math.ceil(longer / count)
    if min(step, shorter) < recipe.smallest_crop:
        return
    for n in range(count):
        start, end = n * step, min((n + 1) * step, longer)
        across = width >= height
        yield (start, 0, end, height) if across else (0, start, width, end)
