"""What a loaded model is for: by its architecture, the files beside it, and the settings."""

from __future__ import annotations

from msgspec.structs import replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.model_info import Purpose
from rbee_worker.models.base import Decoder


def dimensions_of(purpose: Purpose, model: Decoder) -> int:
    """How many numbers a vector has."""
    return purpose.pooling.dense[-1] if purpose.pooling.dense else model.width


def purpose_of(ckpt: Checkpoint, model: Decoder, settings: Settings) -> Purpose:
    """The purpose of a model, with the way of pooling that --pooling or the model's files say, or
    with what these say of a cross-encoder's score."""
    purpose = model.purpose
    if purpose.task == "classify":
        said = ckpt.sentence.activation
        return purpose if said is None else replace(purpose, activation=said)
    if ckpt.headless:
        purpose = replace(purpose, task="embed")
    pooling = ckpt.sentence.pooling or purpose.pooling
    if settings.pooling != "auto":
        pooling = replace(pooling, how=settings.pooling, origin="--pooling")
    return replace(purpose, pooling=pooling)
