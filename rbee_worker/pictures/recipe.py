"""`Recipe`: how a model's processor resizes and cuts a picture, read from the model's files.

preprocessor_config.json has it; transformers 5 writes it into processor_config.json. A key that is
absent or null has the value of transformers' class, which is a row of `PROCESSORS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from msgspec import Struct

from rbee_worker.errors import UnsupportedModel

Cutting = Literal["tiles", "crops", "whole"]
Detail = Literal["auto", "low", "high"]


class Recipe(Struct, frozen=True, kw_only=True):
    """Sizes in pixels. cutting: "tiles": the picture is resized to multiples of `height` and cut
    into tiles of that size, with the whole picture as the last one (Idefics 3, SmolVLM); "crops":
    the whole picture is resized to height x width, and parts of a long picture follow (Gemma 3);
    "whole": it is resized, and that is all (Moondream).

    resample: Pillow's number of the filter. longest: the longer edge before tiles are cut. pieces:
    whether there are tiles or crops unless a request's `detail` says otherwise. most_crops,
    smallest_crop, crop_ratio: of "crops". How pixels are normalised is the model's own affair
    (`checkpoint/colours.py`).
    """

    cutting: Cutting
    height: int
    width: int
    resample: int
    longest: int = 0
    pieces: bool = False
    most_crops: int = 4
    smallest_crop: int = 256
    crop_ratio: float = 1.2

    def cut_for(self, detail: Detail) -> bool:
        """Whether a picture is cut into pieces. detail: as OpenAI's clients say it."""
        return self.pieces if detail == "auto" else detail == "high"


@dataclass(frozen=True)
class Processor:
    """A class of transformers. defaults: of the keys that a file may leave out; asked: what its
    processor asks of it whatever the file says; prompt: how its processor writes the prompt, a row
    of `prompt.PROMPTS`."""

    cutting: Cutting
    prompt: str
    defaults: Mapping[str, Any]
    asked: Mapping[str, Any]


_IDEFICS3 = Processor(
    cutting="tiles",
    prompt="idefics3",
    defaults={
        "do_resize": True,
        "resample": 1,
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
        "do_image_splitting": True,
    },
    asked={},
)
_GEMMA3 = Processor(
    cutting="crops",
    prompt="gemma3",
    defaults={"do_resize": True, "resample": 2, "size": {"height": 224, "width": 224}},
    asked={
        "do_pan_and_scan": False,
        "pan_and_scan_min_crop_size": 256,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    },
)
_MOONDREAM = Processor(  # what its own code does; it has no class of transformers
    cutting="whole",
    prompt="moondream",
    defaults={"do_resize": True, "resample": 3, "size": {"height": 378, "width": 378}},
    asked={"do_pan_and_scan": False},
)
PROCESSORS: Mapping[str, Processor] = {
    "Idefics3ImageProcessor": _IDEFICS3,
    "SmolVLMImageProcessor": _IDEFICS3,
    "Gemma3ImageProcessor": _GEMMA3,
    "Moondream": _MOONDREAM,
}
_FLAVOURS = ("Fast", "Pil")  # transformers' other classes of the same processor


def processor_of(image: Mapping[str, Any]) -> Processor | None:
    """The class that a file names; None if it names none. Raises UnsupportedModel for another."""
    named = image.get("image_processor_type")
    if not isinstance(named, str):
        return None
    for flavour in _FLAVOURS:
        named = named.removesuffix(flavour)
    if named not in PROCESSORS:
        raise UnsupportedModel(
            f"its processor {named[:60]!r} is not supported",
            fix=f"pictures are read for {', '.join(PROCESSORS)}",
        )
    return PROCESSORS[named]


def read_recipe(image: Mapping[str, Any], processor: Processor) -> Recipe:
    """The recipe of a preprocessor's config. Raises UnsupportedModel for one that asks for what is
    not done here."""
    said = {k: v for k, v in image.items() if v is not None}
    config = {**processor.defaults, **said, **processor.asked}
    if config["do_resize"] is not True:
        _refuse("do_resize", config["do_resize"])
    if type(config["resample"]) is not int or not 0 <= config["resample"] <= 5:
        _refuse("resample", config["resample"])
    tiles = processor.cutting == "tiles"
    square = config["max_image_size"] if tiles else config["size"]
    height, width = (_edge(square, "longest_edge" if tiles else name) for name in _SIDES)
    usual = Recipe(cutting=processor.cutting, height=height, width=width, resample=0)
    return Recipe(
        cutting=processor.cutting,
        height=height,
        width=width,
        resample=config["resample"],
        longest=_edge(config["size"], "longest_edge") if tiles else 0,
        pieces=config["do_image_splitting" if tiles else "do_pan_and_scan"] is True,
        most_crops=int(config.get("pan_and_scan_max_num_crops", usual.most_crops)),
        smallest_crop=int(config.get("pan_and_scan_min_crop_size", usual.smallest_crop)),
        crop_ratio=float(config.get("pan_and_scan_min_ratio_to_activate", usual.crop_ratio)),
    )


_SIDES = ("height", "width")
_MOST_EDGE = 8192


def _edge(size: Any, name: str) -> int:
    edge = size.get(name) if isinstance(size, Mapping) else None
    if type(edge) is not int or not 1 <= edge <= _MOST_EDGE:
        _refuse("size", size)
    return edge


def _refuse(name: str, value: Any) -> NoReturn:
    raise UnsupportedModel(
        f"its preprocessor_config.json has {name} = {str(value)[:40]!r}, which is not supported",
        fix="use the model's own preprocessor_config.json, as it was published",
    )
