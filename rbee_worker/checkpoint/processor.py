"""The files of a model that say how pictures become its input.

preprocessor_config.json has the picture's part and processor_config.json the prompt's;
transformers 5 writes both into the second, with the first as its `image_processor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.reading import inside, read_json

_IMAGE, _BOTH = "preprocessor_config.json", "processor_config.json"


@dataclass(frozen=True)
class ProcessorFiles:
    """image: how pictures are resized and cut; config: how they are written into a prompt. {} where
    a file is absent."""

    image: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


NONE = ProcessorFiles()


def read_processor(directory: Path) -> ProcessorFiles:
    """The files of a model directory. Raises CheckpointError for damaged ones."""
    image, config = _config(directory, _IMAGE), _config(directory, _BOTH)
    inner = config.get("image_processor")
    return ProcessorFiles(inner if not image and isinstance(inner, dict) else image, config)


def of_tower(kind: str, side: int, rows: int, longest: Any) -> ProcessorFiles:
    """The same for a tower without such files, as in a GGUF file, which has fewer keys. kind: of
    its projector, as llama.cpp calls it; side: of a tile, in pixels; rows: that a tile becomes;
    longest: the longer edge of a picture before it is cut into tiles, None if the file does not say
    it: then it is not cut."""
    if kind == "mlp":
        size = {"height": side, "width": side}
        return ProcessorFiles({"image_processor_type": "Moondream", "size": size}, {"rows": rows})
    if kind == "gemma3":
        size = {"height": side, "width": side}
        image: dict[str, Any] = {"image_processor_type": "Gemma3ImageProcessor", "size": size}
        return ProcessorFiles(image, {"image_seq_length": rows})
    image = {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": longest or 4 * side},
        "max_image_size": {"longest_edge": side},
        "do_image_splitting": bool(longest),
    }
    return ProcessorFiles(image, {"image_seq_len": rows})


def _config(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    return read_json(inside(directory, path)) if path.is_file() else {}
