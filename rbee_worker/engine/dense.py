"""Dense maps of a vector: what sentence-transformers applies to pooled rows, before it normalises.

Each vector is mapped alone, so that it has the same bits in any batch. Everything is float32, but
for the activations, which are float64 in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbee_worker.types import DenseAct

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def _sigmoid(x: F64) -> F64:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def _erf(x: F64) -> F64:
    return np.array([math.erf(value) for value in x.tolist()])


# torch.nn's classes, as they are without arguments.
_ACTS: Mapping[DenseAct, Callable[[F64], F64]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0.0),
    "GELU": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
}


@dataclass(frozen=True, slots=True)
class Dense:
    """act(weight x + bias). weight [outputs, inputs], bias [outputs] or None."""

    weight: F32
    bias: F32 | None
    act: DenseAct

    def __call__(self, x: F32) -> F32:
        """x [inputs] -> [outputs]"""
        made: F32 = self.weight @ x
        if self.bias is not None:
            made = made + self.bias
        return _ACTS[self.act](made.astype(np.float64)).astype(np.float32)
