"""`Speaking`: one answer on its way from tokens to sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbee_worker.speech.frames import Frame, Frames

if TYPE_CHECKING:
    from rbee_worker.speech.codec import Codec
    from rbee_worker.speech.second_stage import SecondStage

F32 = NDArray[np.float32]
Codes = NDArray[np.int64]

_AT_ONCE = 96  # frames whose sound leaves together, once all are known


class Speaking:
    """Takes tokens, gives codes, or the samples of a codec. Without a second stage, what a token
    completes leaves at once; a second stage needs all frames, so everything leaves at the end.

    text: ids of the text, without the first stage's offset. A code of a frame that is not complete
    at the end is dropped.
    """

    def __init__(
        self,
        text: Sequence[int],
        *,
        voice: F32,
        seed: int,
        codec: Codec | None,
        second: SecondStage | None,
    ) -> None:
        """codec: None if codes are wanted; second: None if those of two codebooks are enough."""
        self._text, self._voice, self._seed = text, voice, seed
        self._second = second
        self._decoding = None if codec is None else codec.decoding()
        self._frames = Frames()
        self._kept: list[Frame] = []  # for the second stage

    def push(self, ids: Sequence[int]) -> Codes:
        """The codes [books, n] that these ids complete."""
        found = self._frames.push(ids)
        if self._second is not None:
            self._kept += found
            return np.zeros((self._second.books, 0), np.int64)
        return np.array(found, np.int64).reshape(-1, 2).T

    def end(self) -> Iterator[Codes]:
        """No id follows: the codes that are left, piece by piece."""
        if self._second is None or not self._kept:
            return
        codes = self._second.codes(self._text, self._kept, self._voice, self._seed)
        for start in range(0, codes.shape[1], _AT_ONCE):
            yield codes[:, start : start + _AT_ONCE]

    def samples(self, codes: Codes) -> F32:
        """The samples that are certain with these codes."""
        assert self._decoding is not None
        return self._decoding.push(codes) if codes.shape[1] else np.zeros(0, np.float32)

    @property
    def strays(self) -> int:
        """Tokens so far that are no codes, the end of the sound aside."""
        return self._frames.strays

    @property
    def unpaired(self) -> int:
        """Codes so far without a partner."""
        return self._frames.unpaired

    def rest(self) -> F32:
        """The samples after those of all codes."""
        assert self._decoding is not None
        return self._decoding.end()
