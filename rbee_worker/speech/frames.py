"""Tokens of the first stage -> frames of EnCodec codes.

A frame is 1/75 s of sound; the first stage draws its codes of two codebooks, those of the second
one as 1024 + code. Which codebook comes next is the model's own choice: as in the authors' code
(FlattenedInterleavedEncodec2Codebook) the n-th codes of both are a frame, tokens of text are not
counted, and a code without a partner at the end is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from rbee_worker.checkpoint.stages import CODES, END_OF_AUDIO

Frame = tuple[int, int]  # codes of the first and the second codebook


class Frames:
    """Takes ids as they come. strays: tokens that are no codes; `unpaired` counts what is left."""

    def __init__(self) -> None:
        self.strays = 0
        self._waiting: tuple[list[int], list[int]] = ([], [])

    def push(self, ids: Iterable[int]) -> list[Frame]:
        """The frames that these ids complete."""
        for token in ids:
            book, code = divmod(token, CODES)
            if book in (0, 1):
                self._waiting[book].append(code)
            elif token != END_OF_AUDIO:
                self.strays += 1
        n = min(map(len, self._waiting))
        done = list(zip(self._waiting[0][:n], self._waiting[1][:n], strict=True))
        for codes in self._waiting:
            del codes[:n]
        return done

    @property
    def unpaired(self) -> int:
        """Codes that wait for a partner."""
        return sum(map(len, self._waiting))
