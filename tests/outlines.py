"""What a backend says of a checkpoint before it reads any weight."""

from __future__ import annotations

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.models import plan_model
from rbee_worker.models.base import Decoder
from rbee_worker.ops.backends import backend
from rbee_worker.ops.cpu.backend import warm
from rbee_worker.ops.cpu.backend.warm import recording_shape
from rbee_worker.ops.plan import PlanOps


def planned_model(ckpt: Checkpoint, dtype: str) -> tuple[Decoder, PlanOps]:
    """Built from names and shapes, and what a backend that expands all weights would hold."""
    plan = PlanOps(dtype)
    return plan_model(ckpt, plan), plan


def planned(ckpt: Checkpoint) -> PlanOps:
    """What the cpu backend would hold of it."""
    plan = backend("cpu").plan_ops("f32")
    plan_model(ckpt, plan)
    return plan


def needed(ckpt: Checkpoint, settings: Settings, kv_dtype: str) -> list[str]:
    """The kernels that the cpu backend calls for it."""
    outline = outline_of(ckpt, preflight(ckpt, settings).model.context)
    return warm.needed(outline, recording_shape(settings, kv_dtype, outline.context), settings)


def read_bytes(ckpt: Checkpoint, settings: Settings) -> int:
    """Of weights, for one token."""
    plan = preflight(ckpt, settings)
    outline = outline_of(ckpt, plan.model.context)
    return plan.backend.bytes_per_token(outline, settings, plan.dtype)
