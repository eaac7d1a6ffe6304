"""Settings that only the backend of compiled CPU kernels serves. Torch-free."""

from __future__ import annotations

from rbee_worker.config import Settings
from rbee_worker.ops.backend import Refusal


def cpu_only(settings: Settings) -> Refusal | None:
    """Why another backend cannot serve these settings; None if it can."""
    if not settings.bf16_activations:
        return None
    return Refusal("--bf16-activations: only the cpu backend has it.", "leave the option out.")
