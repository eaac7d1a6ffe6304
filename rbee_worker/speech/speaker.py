"""A speaker's embedding from a clip: three LSTM layers over mel bands (GE2E, Wan et al. 2018).

As in the authors' code (fam/quantiser/audio/speaker_encoder/model.py): the clip at 16 kHz, without
silence at its ends, is cut into windows of 160 frames, 1.3 of them a second; a window's embedding
is the last layer's last state through a linear map, cut at zero, divided by its length; the mean of
all of them is divided by its length again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_worker.errors import CheckpointError
from rbee_worker.speech.networks import Lstm, LstmWeights
from rbee_worker.speech.sound import BANDS, HOP, RATE, mel, resampled, trimmed
from rbee_worker.speech.tensors import Tensors
from rbee_worker.speech.wav import Clip

F32 = NDArray[np.float32]

FRAMES = 160  # of a window
_A_SECOND = 1.3  # windows that begin in a second
_COVERED = 0.75  # of the last window must be sound
_MOST_LAYERS = 16


class SpeakerEncoder:
    """The network of a `speaker_encoder.safetensors`."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError, BadReference, UnsupportedModel."""
        tensors = Tensors(path)
        self._layers: list[LstmWeights] = []
        given = BANDS
        for number in range(_MOST_LAYERS):
            names = _names(tensors, number)
            if names is None:
                break
            rows = tensors.shape(names["weight_hh"])[0]
            width = rows // 4
            self._layers.append(
                LstmWeights(
                    tensors.take(names["weight_ih"], (4 * width, given)),
                    tensors.take(names["weight_hh"], (4 * width, width)),
                    tensors.take(names["bias_ih"], (rows,))
                    + tensors.take(names["bias_hh"], (rows,)),
                )
            )
            given = width
        if not self._layers:
            raise CheckpointError(f"{path}: has no LSTM layers.", fix="download it again.")
        self.size = tensors.shape("linear.weight")[0]
        self._map = tensors.take("linear.weight", (self.size, given))
        self._bias = tensors.take("linear.bias", (self.size,))

    def embedding(self, clip: Clip) -> F32:
        """The speaker's embedding, float32 [size], of length 1. Raises ValueError, as the end of a
        sentence about the clip, if nothing is heard in it."""
        samples = trimmed(resampled(clip))
        if not len(samples):
            raise ValueError("is silent")
        starts, length = windows(len(samples))
        frames = mel(np.pad(samples, (0, max(length - len(samples), 0))))
        mean = self.windows(np.stack([frames[at : at + FRAMES] for at in starts])).mean(axis=0)
        size = float(np.sqrt(np.square(mean, dtype=np.float64).sum()))
        if not size > 0:
            raise ValueError("has nothing that the speaker encoder knows")
        made: F32 = (mean / size).astype(np.float32)
        return made

    def windows(self, frames: F32) -> F32:
        """Mel frames of windows [n, 160, 40] -> an embedding of each [n, size]."""
        x = np.ascontiguousarray(frames.transpose(1, 0, 2))
        for weights in self._layers:
            layer = Lstm(weights, x.shape[1])
            x = layer.run(x)
        raw = np.maximum(x[-1] @ self._map.T + self._bias, 0)
        sizes = np.sqrt(np.square(raw).sum(axis=1, keepdims=True))
        made: F32 = raw / np.maximum(sizes, np.float32(1e-12))
        return made


def windows(samples: int) -> tuple[list[int], int]:
    """The first frames of a clip's windows, and how many samples all of them take."""
    frames = -(-(samples + 1) // HOP)
    step = round(RATE / _A_SECOND / HOP)
    starts = list(range(0, max(1, frames - FRAMES + step + 1), step))
    covered = (samples - starts[-1] * HOP) / (FRAMES * HOP)
    if covered < _COVERED and len(starts) > 1:
        starts.pop()
    return starts, (starts[-1] + FRAMES) * HOP


def _names(tensors: Tensors, layer: int) -> dict[str, str] | None:
    """A layer's tensors by torch's names without the number; None: there is no such layer. candle's
    files have one module for each layer."""
    for prefix in ("lstm.", f"lstm.{layer}."):
        names = {
            kind: f"{prefix}{kind}_l{layer}"
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        if tensors.has(names["weight_ih"]):
            return names
    return None
