"""A model that computes, and the memory of its sequences, as the engine sees them anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.batch import Array, Batch, StepNumbers
from rbee_worker.state.specs import StateGroup


class StateMemory(Protocol):
    """The state of all sequences, in a backend's memory. Zeroed; slot 0 and block 0 are sinks."""

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes, whether written or not."""
        ...

    def stage(self, numbers: StepNumbers) -> Batch:
        """The batch for a model, valid until the next call. The same `numbers` object may come
        again with other contents; a backend that overlaps steps must have copied them when this
        returns."""
        ...

    def keep_features(self, slot: int, rows: Array) -> None:
        """Keep a tile's features, which `Executable.see` returned, in a slot, or what
        `Executable.voice` did: batches of steps staged from now on read them there."""
        ...

    def clear(self, slots: Sequence[int]) -> None:
        """Zero these slots of every fixed group."""
        ...

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """For each pair, copy the fixed state of slot `source` to slot `target`, in every group."""
        ...


class Executable(Protocol):
    """A model that computes batches, as the engine's runner needs it.

    A call may overwrite the result of the previous one. Where steps overlap, the result of a step's
    last call must survive until the second `StateMemory.stage` after that step's own, because its
    log-probabilities are computed when the step is collected.
    """

    @property
    def groups(self) -> tuple[StateGroup, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...

    def encode(self, batch: Batch) -> Array:
        """Read whole sources, the N rows of `batch`, which answers look at: see `Decoder.encode`.
        Returns the rows' hidden states, [N, dim]."""
        ...

    def see(self, tile: NDArray[np.uint8]) -> Array:
        """Read a tile of a picture, pixels [side, side, 3]: its features [rows, dim], see
        `TileSpec`. Only of a model with a tower."""
        ...

    def voice(self, embedding: NDArray[np.float32]) -> Array:
        """A speaker's embedding [size] -> what it adds to the rows of a sequence, [1, dim]. Only of
        a model that speaks."""
        ...

    def hidden(self, batch: Batch) -> Array:
        """N rows -> [N, dim]"""
        ...

    def head(self, rows: Array) -> Array:
        """[S, dim] -> logits float32 [S, vocab]"""
        ...

    def logits(self, batch: Batch) -> Array:
        """head(hidden(batch)[batch.sample_rows]), but faster where possible; bit for bit where a
        row's sums do not depend on how many rows there are."""
        ...

    def mtp_hidden(self, rows: NDArray[np.float32], batch: Batch) -> Array:
        """See `MtpLayer.hidden`. rows [N, dim]: numbers of the host, from `host`. Only of a model
        with such a layer."""
        ...

    def mtp_head(self, rows: NDArray[np.float32]) -> Array:
        """See `MtpLayer.head`; rows as for `mtp_hidden`."""
        ...

    def guided(self, batch: Batch, scales: Sequence[float]) -> Array:
        """`logits` of both lanes, joined by `ops.guidance.guided`. Only of a model that speaks."""
        ...

    def host(self, rows: Array) -> NDArray[np.float32]:
        """Rows of a hidden state, or of a head's result, as float32 numbers on the host. They are
        valid until the next call of another method."""
        ...
