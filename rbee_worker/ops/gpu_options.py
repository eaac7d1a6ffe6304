"""Settings that only a backend on a GPU serves, and those that it does not. Torch-free."""

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


def not_on_gpu(settings: Settings) -> Refusal | None:
    """Why the backend on a GPU cannot serve these settings; None if it can."""
    if settings.attention == "reference":
        return Refusal(
            "--attention reference: the cuda backend has its own attention only.",
            "use --attention auto.",
        )
    if settings.mtp:
        return Refusal(
            "--speculate mtp: the cuda backend drafts with no layer of the model.",
            "use --backend cpu, or --speculate ngram.",
        )
    if settings.draft_model:
        return Refusal(
            "--draft-model: the cuda backend has no second model.",
            "use --backend cpu, or leave it out.",
        )
    return None
