"""How a model's pre-processor normalises pixels: config keys, from the files beside the model.

A tower computes (pixel / 255 - mean) / deviation, for each colour. Files say the same in several
ways: a factor of pixels, and whether it and the normalisation are in use at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.reading import inside, read_json
from rbee_worker.errors import CheckpointError

FILE, WHOLE = "preprocessor_config.json", "processor_config.json"


def with_colours(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """`config`, with `image_mean` and `image_std` in a model directory where a file has them, if
    the model reads pictures. Raises CheckpointError."""
    given = _given(path) if "vision_config" in config else {}
    if not given:
        return config
    mean, deviation = _pair(given)
    return config | {"image_mean": mean, "image_std": deviation}


def _given(path: Path) -> Mapping[str, Any]:
    """The pre-processor's keys, {} without a file."""
    for name in (FILE, WHOLE):
        if (path / name).is_file():
            found = read_json(inside(path, path / name))
            found = found.get("image_processor", found)
            if isinstance(found, dict) and "image_mean" in found:
                return found
    return {}


def _pair(given: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
    mean, deviation = given.get("image_mean"), given.get("image_std")
    if not given.get("do_normalize", True):
        mean, deviation = [0.0] * 3, [1.0] * 3
    numbers = [factor, *_floats(mean), *_floats(deviation)]
    if not all(isinstance(n, int | float) for n in numbers) or not factor or len(numbers) != 7:
        raise CheckpointError(
            f"{FILE}: image_mean, image_std and rescale_factor cannot be used.",
            fix="download it again.",
        )
    by = 255 * factor
    if abs(by - 1) < 1e-6:
        by = 1.0
    return [n / by for n in numbers[1:4]], [n / by for n in numbers[4:]]


def _floats(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
