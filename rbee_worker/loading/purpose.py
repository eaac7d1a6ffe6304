"""What a loaded model is for: by its architecture, the files beside it, and the settings."""

from __future__ import annotations

from msgspec.structs import replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.models.base import Decoder
from rbee_worker.types import Pooling, Purpose


def purpose_of(ckpt: Checkpoint, model: Decoder, settings: Settings) -> Purpose:
    """The purpose of a model, with the way of pooling that --pooling or the model's files say."""
    purpose = model.purpose
    if purpose.task == "classify":
        return purpose
    if ckpt.headless:
        purpose = replace(purpose, task="embed")
    pooling = ckpt.sentence.pooling or purpose.pooling
    if settings.pooling != "auto":
        pooling = Pooling(how=settings.pooling, normalize=pooling.normalize, origin="--pooling")
    return replace(purpose, pooling=pooling)
