"""The weights that decoding one token reads: only the chosen experts, and one row of an embedding
table. Found by recording the model without its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rbee_worker.config import Settings
from rbee_worker.ops import Activation, Weight
from rbee_worker.ops.backend import ModelOutline
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.backend.model import decoding_names
from rbee_worker.ops.cpu.backend.outline import OutlineOps
from rbee_worker.ops.cpu.backend.warm import recording_shape
from rbee_worker.ops.cpu.runtime.matrix import Matrix
from rbee_worker.ops.cpu.runtime.recording import buf_of
from rbee_worker.ops.cpu.runtime.stack import Stack
from rbee_worker.ops.cpu.shared.held import ROWS, Held

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops.cpu.runtime.header import Shape


def bytes_read(outline: ModelOutline, settings: Settings) -> int:
    """Bytes of stored weights that decoding one token reads."""
    return _counted(outline, settings).nbytes


def numbers_read(outline: ModelOutline, settings: Settings) -> int:
    """The number of weights that decoding one token reads, in whatever form they are stored."""
    return _counted(outline, settings).numbers


def _counted(outline: ModelOutline, settings: Settings) -> TrafficOps:
    ops = TrafficOps(exact=settings.exact_activations)
    ops.count(outline.build(ops), recording_shape(settings, "f32", outline.context))
    return ops


class TrafficOps(OutlineOps):
    """`OutlineOps` that adds up what products read. `nbytes`: in this backend's stored form;
    `numbers`: the count of weights."""

    def __init__(self, *, exact: bool = False) -> None:
        super().__init__(exact=exact)
        self.nbytes = self.numbers = 0

    def count(self, decoder: Decoder, shape: Shape) -> None:
        """Add up what decoding one token with `decoder`, built with these operations, reads."""
        decoding_names(decoder, self, shape)

    def product(
        self, x: Array, weight: Weight, bias: Array | None, form: Callable[[Held], str]
    ) -> Array:
        """See `CpuOps.product`."""
        self._read(weight.data)
        return super().product(x, weight, bias, form)

    def heads_linear(self, x: Array, weight: Weight) -> Array:
        """See `Ops.heads_linear`."""
        self._read(_first(weight), weight.count)
        return super().heads_linear(x, weight)

    def experts(
        self,
        x: Array,
        ids: Array,
        weights: Array | None,
        up: Weight,
        down: Weight,
        kind: Activation,
        **others: Any,
    ) -> Array:
        """See `Ops.experts`; a token uses as many experts as `ids` has columns."""
        for weight in (up, down):
            self._read(_first(weight), buf_of(ids).width)
        return super().experts(x, ids, weights, up, down, kind, **others)

    def _read(self, matrix: Matrix, times: int = 1) -> None:
        for part in matrix.parts:
            units = -(-part.rows // ROWS) * -(-matrix.cols // part.held.columns)
            self.nbytes += times * units * part.held.nbytes
            self.numbers += times * part.rows * matrix.cols


def _first(weight: Weight) -> Matrix:
    stack: Stack = weight.data
    return stack.members[0]
