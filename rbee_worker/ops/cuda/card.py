"""The GPU that a worker's settings name."""

from __future__ import annotations

from pathlib import Path

import torch
from triton import knobs

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops.cuda.kept_shapes import KeptShapes


def use_card(settings: Settings) -> None:
    """Make --device the one that this thread computes on, and keep to --gpu-memory. Raises
    UsageError for a number that no GPU has."""
    count = torch.cuda.device_count()
    if count and settings.device >= count:
        raise UsageError(
            f"--device {settings.device}: there {'is' if count == 1 else 'are'} {count} here.",
            fix=f"use a number below {count}.",
        )
    torch.cuda.set_device(settings.device)
    torch.cuda.set_per_process_memory_fraction(settings.gpu_memory / 100)


def card_shapes(settings: Settings) -> KeptShapes:
    """Tile shapes that were measured on it."""
    return KeptShapes(Path(knobs.cache.dir), torch.cuda.get_device_name(settings.device))
