"""What a clip goes through before the speaker encoder: another rate, silence cut off, mel bands.

The numbers are those of the authors' code (fam/quantiser/audio/speaker_encoder), which uses
librosa: frames of 25 ms every 10 ms, 40 bands of Slaney's mel scale, power and not its logarithm.
"""

from __future__ import annotations

from functools import cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from rbee_worker.speech.wav import Clip

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RATE = 16000
WINDOW, HOP, BANDS = 400, 160, 40  # samples, samples, mel bands
_QUIET_DB = 20.0  # below the loudest frame: silence
_TRIM_WINDOW, _TRIM_HOP = 2048, 512
_LOBES = 32  # zero crossings of the sinc on each side
_ROLLOFF = 0.95  # of the lower Nyquist frequency passes
_BETA = 12.0  # of the Kaiser window
_AT_ONCE = 1 << 14  # results of resampling


def resampled(clip: Clip, rate: int = RATE) -> F32:
    """The clip's samples at another rate: a sinc under a Kaiser window (Smith, "Digital Audio
    Resampling"), which lets through what both rates can have."""
    if clip.rate == rate:
        return clip.samples
    common = gcd(clip.rate, rate)
    up, down = rate // common, clip.rate // common
    cut = min(1.0, up / down) * _ROLLOFF  # in the clip's own Nyquist frequency
    reach = int(np.ceil(_LOBES / cut))
    padded = np.concatenate((np.zeros(reach), clip.samples.astype(np.float64), np.zeros(reach + 1)))
    count = -(-len(clip.samples) * up // down)
    near = np.arange(-reach + 1, reach + 1)
    away = near[None] - np.arange(up)[:, None] / up  # of each phase: to the samples around it
    weights = cut * np.sinc(cut * away) * _kaiser(away / reach)
    made = np.empty(count, np.float32)
    for start in range(0, count, _AT_ONCE):
        at = np.arange(start, min(start + _AT_ONCE, count), dtype=np.int64) * down
        around = padded[(at // up)[:, None] + near + reach]
        made[start : start + len(at)] = np.einsum("nt,nt->n", around, weights[at % up])
    return made


def _kaiser(x: F64) -> F64:
    inside = np.sqrt(np.maximum(1 - x * x, 0))
    window: F64 = np.where(np.abs(x) < 1, np.i0(_BETA * inside) / np.i0(_BETA), 0.0)
    return window


def trimmed(samples: F32) -> F32:
    """The samples without silence at both ends: frames 20 dB below the loudest one, as
    librosa.effects.trim does it. Empty if nothing is heard."""
    half = _TRIM_WINDOW // 2
    padded = np.pad(samples.astype(np.float64), half)
    sums = np.concatenate(([0.0], np.cumsum(padded * padded)))
    starts = np.arange(0, len(samples) + 1, _TRIM_HOP)
    power = np.maximum(sums[starts + _TRIM_WINDOW] - sums[starts], 0.0) / _TRIM_WINDOW
    if not len(power) or power.max() <= 1e-10:
        return samples[:0]
    loud = np.flatnonzero(power > power.max() * 10 ** (-_QUIET_DB / 10))
    return samples[loud[0] * _TRIM_HOP : min(len(samples), (loud[-1] + 1) * _TRIM_HOP)]


def mel(samples: F32) -> F32:
    """Power in mel bands of frames around every 160th sample: [1 + n // 160, 40]."""
    padded = np.pad(samples.astype(np.float64), WINDOW // 2)
    count = 1 + len(samples) // HOP
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    bands: F32 = (power @ _filters().T).astype(np.float32)
    return bands


@cache
def _filters() -> F64:
    """Triangles of equal area over 40 bands [40, 201] (Slaney's Auditory Toolbox)."""
    edges = _hertz(np.linspace(_mels(0.0), _mels(RATE / 2), BANDS + 2))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    areas = 2.0 / (edges[2:] - edges[:-2])
    filters: F64 = np.maximum(0, np.minimum(rising, falling)) * areas[:, None]
    return filters


def _mels(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))


def _hertz(mels: F64) -> F64:
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))
