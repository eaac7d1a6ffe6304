"""A fake engine whose model speaks: two voices, a second stage that computes nothing, no codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from rbee_worker.model_info import Purpose
from rbee_worker.speech.second_stage import SecondStage
from rbee_worker.speech.side import SpeechSide
from tests.server.fake_engine import Fake

SPEECH = "/v1/audio/speech"


class _Repeating:
    """A second stage whose codes are those of the first one, four times."""

    books = 8

    def most(self, text: int) -> int:
        return 1000

    def codes(self, text: Sequence[int], frames: Any, voice: Any, seed: int) -> Any:
        return np.tile(np.array(frames, np.int64).T, (4, 1))


def speaking_fake(**more: Any) -> Fake:
    """The fake; more: fields of `Fake`."""
    voices = {"default": np.ones(4, "<f4").tobytes(), "bee": np.zeros(4, "<f4").tobytes()}
    stage = cast(SecondStage, _Repeating())
    side = SpeechSide(size=4, offset=0, voices=voices, second=stage)
    return Fake(purpose=Purpose(speaks=True), speech=side, **more)
