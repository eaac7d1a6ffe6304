"""Settings that only a backend on a GPU serves. Torch-free."""

from __future__ import annotations

from rbee_worker.config import Settings
from rbee_worker.ops.backend import Refusal


def gpu_only(settings: Settings) -> Refusal | None:
    """Why a backend on the CPU cannot serve these settings; None if it can."""
    asked = {"--attention flash": settings.attention == "flash"}
    asked["--quantize fp8"] = settings.quantize == "fp8"
    asked[f"--device {settings.device}"] = settings.device != 0
    asked[f"--gpu-memory {settings.gpu_memory}"] = settings.gpu_memory != 100
    for option, given in asked.items():
        if given:
            return Refusal(f"{option}: only the cuda backend has it.", "leave the option out.")
    return None
