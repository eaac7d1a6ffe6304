"""How a model's pre-processor normalises pixels: config keys, from the files beside the model.

A tower computes (pixel / 255 - mean) / deviation, for each colour. Files say the same in several
ways: a factor of pixels, and whether it and the normalisation are in use at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbee_worker.errors import CheckpointError


def with_colours(config: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, with `image_mean` and `image_std` if the model reads pictures and its pre-processor
    says them. said: see `ProcessorFiles.image`. Raises CheckpointError."""
    if "vision_config" not in config or "image_mean" not in said:
        return config
    mean, deviation = _pair(said)
    return config | {"image_mean": mean, "image_std": deviation}


def _pair(given: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
    mean, deviation = given.get("image_mean"), given.get("image_std")
    if not given.get("do_normalize", True):
        mean, deviation = [0.0] * 3, [1.0] * 3
    numbers = [factor, *_floats(mean), *_floats(deviation)]
    if not all(isinstance(n, int | float) for n in numbers) or not factor or len(numbers) != 7:
        raise CheckpointError(
            "preprocessor_config.json: image_mean, image_std and rescale_factor cannot be used.",
            fix="download it again.",
        )
    by = 255 * factor
    if abs(by - 1) < 1e-6:
        by = 1.0
    return [n / by for n in numbers[1:4]], [n / by for n in numbers[4:]]


def _floats(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
