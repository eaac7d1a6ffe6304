"""The rotary angles of a step's rows, computed once for each rotary table that a model uses."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.kernels.tables import angles


class Angles:
    """Cosines and sines by rotary table, for one batch at a time."""

    def __init__(self, *, pdl: bool) -> None:
        self._pdl = pdl
        self._made: dict[RopeSpec, Tensor] = {}
        self._numbers: dict[RopeSpec, tuple[Tensor, Tensor | None]] = {}

    def begin(self) -> None:
        """A new step: forget the rows of the one before."""
        self._made.clear()

    def of(self, spec: RopeSpec, batch: Batch) -> Tensor:
        """float32 [N, spec.dim]: the cosines of every row's angles, then the sines, times the
        table's magnitude."""
        found = self._made.get(spec)
        if found is None:
            found = self._made[spec] = self._angles(spec, batch)
        return found

    def _angles(self, spec: RopeSpec, batch: Batch) -> Tensor:
        positions = batch.positions
        freq, long = self._frequencies(spec, positions.device)
        if spec.dynamic is None and long is None:
            return angles(positions, freq, spec.magnitude, pdl=self._pdl)
        rows = freq[None]
        scale: float | Tensor = spec.magnitude
        if spec.dynamic is not None or long is not None:
            lens = batch.rope_lens[_sequence_of_row(batch)][:, None]
            if spec.dynamic is not None:
                rows = _dynamic(spec, lens)
            if long is not None:
                is_long = lens > spec.switch
                rows = torch.where(is_long, long[None], rows)
                scale = torch.where(is_long, spec.long_magnitude, spec.magnitude)
        angle = positions.float()[:, None] * rows
        return torch.cat((angle.cos() * scale, angle.sin() * scale), dim=1)

    def _frequencies(self, spec: RopeSpec, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The table's frequencies on the device; kept, as a copy from the host would make a step
        wait."""
        if spec not in self._numbers:
            long = spec.long_inv_freq
            self._numbers[spec] = (
                torch.tensor(spec.inv_freq, device=device),
                None if long is None else torch.tensor(long, device=device),
            )
        return self._numbers[spec]


def _sequence_of_row(batch: Batch) -> Tensor:
    """The number of each row's sequence, [N]."""
    rows = torch.arange(batch.positions.shape[0], device=batch.positions.device)
    return torch.searchsorted(batch.seq_starts[1:], rows, right=True)


def _dynamic(spec: RopeSpec, rope_lens: Tensor) -> Tensor:
    """NTK frequencies by length [N, dim / 2]; see `RopeSpec.dynamic`."""
    assert spec.dynamic is not None
    theta, factor, original = spec.dynamic
    length = rope_lens.clamp(min=original).double()
    base = theta * (factor * length / original - (factor - 1)) ** (spec.dim / (spec.dim - 2))
    exponent = torch.arange(0, spec.dim, 2, device=rope_lens.device).double() / spec.dim
    return (base**-exponent).float()
