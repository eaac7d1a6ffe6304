"""LoRA adapters as files: PEFT directories and llama.cpp's GGUF adapters, checked against a base
model and brought into the form that `ops.adapted` describes. Torch-free."""

from __future__ import annotations

from rbee_worker.adapters.adapter import Adapter, LowRank
from rbee_worker.adapters.local import local_spec, localized, with_local_tower
from rbee_worker.adapters.opened import open_adapter
from rbee_worker.adapters.placing import digest, place, planned_bytes

__all__ = [
    "Adapter",
    "LowRank",
    "digest",
    "local_spec",
    "localized",
    "open_adapter",
    "place",
    "planned_bytes",
    "with_local_tower",
]
