"""Whether a model speaks. Everything that speaking takes is imported only if it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.speech.side import SpeechSide


def speech_of(ckpt: Checkpoint, settings: Settings) -> SpeechSide | None:
    """What `ckpt` has for speaking; None if it does not speak. Raises subclasses of ModelError, and
    UsageError."""
    if ckpt.stages is not None:
        from rbee_worker.speech.side import open_speech

        return open_speech(ckpt, ckpt.stages, settings)
    if settings.codec:
        raise UsageError(
            f"--codec is for models that speak; {ckpt.ref} does not.", fix="drop --codec."
        )
    return None
