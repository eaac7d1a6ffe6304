"""Which backend, device and dtype a worker runs with. Torch-free until the backend is made."""

from __future__ import annotations

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops import Ops


def compute_dtype(settings: Settings, kind: str, formats: dict[str, int]) -> str:
    """The dtype that activations are computed in: what was asked for, else the file's own.

    kind: "safetensors" or "gguf"; formats: bytes by format of the checkpoint's tensors.
    auto: a safetensors file computes in the format most of its bytes have, a GGUF file in f32.
    """
    if settings.dtype != "auto":
        return settings.dtype
    if kind == "gguf" or not formats:
        return "f32"
    most = max(formats, key=lambda name: formats[name])
    return {"BF16": "bf16", "F16": "f16"}.get(most, "f32")


def kv_dtype(settings: Settings, dtype: str, packed: bool) -> str:
    """The dtype keys and values are kept in. auto: f16 for packed weights, else the compute dtype.

    Raises UsageError for what the backend cannot keep.
    """
    if settings.kv_dtype in ("i8", "f8"):
        raise UsageError(
            f"--kv-dtype {settings.kv_dtype} needs a backend that has it; `reference` has not.",
            fix="use f32, bf16, f16 or auto.",
        )
    if settings.kv_dtype != "auto":
        return settings.kv_dtype
    return "f16" if packed else dtype


def check_backend(settings: Settings) -> None:
    """Raises UsageError for a backend, device or feature that is not built yet."""
    refused = {
        "--backend": (settings.backend, ("auto", "reference", "cpu")),
        "--attention": (settings.attention, ("auto", "reference")),
        "--tensor-parallel": (settings.tensor_parallel, (1,)),
        "--device": (settings.device, (0,)),
    }
    for option, (value, allowed) in refused.items():
        if value not in allowed:
            raise UsageError(
                f"{option} {value} is not available in this version.",
                fix=f"use one of: {', '.join(map(str, allowed))}.",
            )


def make_ops(settings: Settings, dtype: str) -> Ops:
    """The backend that `settings` ask for, computing in `dtype`. Imports torch."""
    check_backend(settings)
    from rbee_worker.ops.reference import ReferenceOps

    return ReferenceOps("cpu", dtype)
