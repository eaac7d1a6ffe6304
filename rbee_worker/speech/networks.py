"""Small networks in numpy, float32: LSTM layers, causal convolutions that go on where they stopped.

Rows are moments, columns channels. What a layer keeps from one piece of sound for the next is in
its object, so one object computes one sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class LstmWeights:
    """One layer (Hochreiter and Schmidhuber 1997) in torch's order of gates: input, forget, cell,
    output. into [4 n, in], again [4 n, n], bias [4 n], the sum of torch's two."""

    into: F32
    again: F32
    bias: F32


class Lstm:
    """One layer's state, for `sounds` sounds side by side; it begins with zeros."""

    def __init__(self, weights: LstmWeights, sounds: int = 1) -> None:
        self._w = weights
        width = weights.again.shape[1]
        self.hidden = np.zeros((sounds, width), np.float32)
        self._cell = np.zeros((sounds, width), np.float32)

    def run(self, x: F32) -> F32:
        """x [moments, sounds, in] -> [moments, sounds, n]"""
        moments, sounds, _ = x.shape
        given = x.reshape(moments * sounds, -1) @ self._w.into.T + self._w.bias
        gates = given.reshape(moments, sounds, -1)
        out = np.empty((moments, sounds, self.hidden.shape[1]), np.float32)
        for moment in range(moments):
            self.hidden, self._cell = _step(
                gates[moment] + self.hidden @ self._w.again.T, self._cell
            )
            out[moment] = self.hidden
        return out


def _step(gates: F32, cell: F32) -> tuple[F32, F32]:
    into, forget, new, shown = np.split(gates, 4, axis=1)
    cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(new)
    return sigmoid(shown) * np.tanh(cell), cell


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)), without overflow."""
    half: F32 = np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5)
    return half


def elu(x: F32) -> F32:
    """x where it is positive, else exp(x) - 1."""
    bent: F32 = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return bent


@dataclass(frozen=True)
class ConvWeights:
    """kernel [taps * in, out], the oldest tap first; bias [out]; dilation: moments between taps.
    mirrored: before the first moment lie the mirrored ones after it, else zeros."""

    kernel: F32
    bias: F32
    taps: int
    dilation: int = 1
    mirrored: bool = True

    @property
    def before(self) -> int:
        """Earlier moments that one result depends on."""
        return (self.taps - 1) * self.dilation


class Conv:
    """A causal convolution: a result depends on its own moment and on earlier ones."""

    def __init__(self, weights: ConvWeights) -> None:
        self._w = weights
        self._seen: F32 | None = None

    def run(self, x: F32) -> F32:
        """x [n, in] -> [n, out]. The first piece of a sound that is not whole must have more
        moments than `ConvWeights.before`."""
        w = self._w
        seen = self._begun(x) if self._seen is None else self._seen
        whole = np.concatenate((seen, x))
        self._seen = whole[len(whole) - w.before :]
        n = len(x)
        taps = [whole[tap * w.dilation : tap * w.dilation + n] for tap in range(w.taps)]
        made: F32 = np.concatenate(taps, axis=1) @ w.kernel + w.bias
        return made

    def _begun(self, x: F32) -> F32:
        """What lies before the first moment; a sound that is too short is followed by zeros."""
        n = self._w.before
        if not self._w.mirrored:
            return np.zeros((n, x.shape[1]), np.float32)
        lacking = max(n + 1 - len(x), 0)
        long = np.concatenate((x, np.zeros((lacking, x.shape[1]), np.float32)))
        mirrored: F32 = long[1 : n + 1][::-1]
        return mirrored


@dataclass(frozen=True)
class UpWeights:
    """kernel [in, taps * out], the first tap first; bias [out]; a moment becomes `stride`
    moments."""

    kernel: F32
    bias: F32
    taps: int
    stride: int


class Up:
    """A transposed convolution, cut at its end as causal ones are: n moments give n * stride."""

    def __init__(self, weights: UpWeights) -> None:
        self._w = weights
        self._rest = np.zeros((weights.taps - weights.stride, len(weights.bias)), np.float32)

    def run(self, x: F32) -> F32:
        """x [n, in] -> [n * stride, out]"""
        w, n = self._w, len(x)
        parts = (x @ w.kernel).reshape(n, w.taps, -1)
        made = np.zeros(((n - 1) * w.stride + w.taps, len(w.bias)), np.float32)
        for tap in range(w.taps):
            made[tap : tap + (n - 1) * w.stride + 1 : w.stride] += parts[:, tap]
        made[: len(self._rest)] += self._rest
        end = n * w.stride
        self._rest = made[end:]
        done: F32 = made[:end] + w.bias
        return done
