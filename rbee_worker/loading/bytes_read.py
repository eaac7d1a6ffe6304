"""Bytes that decoding a token must read: what the memory's bandwidth allows is measured by them."""

from __future__ import annotations

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.loading.preflight import preflight
from rbee_worker.models import outline_model
from rbee_worker.ops.plan import DTYPE_BYTES
from rbee_worker.ops.select import backend_name, recording_shape


def read_bytes(ckpt: Checkpoint, settings: Settings) -> int:
    """Of weights, for one token of one sequence, as the backend of `settings` holds them.

    The cache is not counted. Imports torch and needs llvmlite. Raises what `preflight` raises.
    """
    from rbee_worker.ops.cpu.backend.bytes_read import TrafficOps

    ahead = preflight(ckpt, settings)
    ops = TrafficOps(exact=settings.exact_activations)
    model = outline_model(ckpt, ops)
    ops.count(model, recording_shape(settings, "f32", model.context))
    if backend_name(settings) == "cpu":
        return ops.nbytes
    return ops.numbers * DTYPE_BYTES[ahead.dtype]
