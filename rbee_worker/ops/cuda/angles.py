"""The rotary angles of a step's rows, computed once for each rotary table that a model uses."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.kernels.tables import ByLength, angles, angles_by_length
from rbee_worker.ops.cuda.rows import longest_rows


class Angles:
    """Cosines and sines by rotary table, for one batch at a time."""

    def __init__(self, *, pdl: bool) -> None:
        self._pdl = pdl
        self._made: dict[RopeSpec, Tensor] = {}
        self._numbers: dict[RopeSpec, tuple[Tensor, ByLength | None]] = {}

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
        frequencies, how = self._on(spec, batch.positions.device)
        if how is None:
            return angles(batch.positions, frequencies, spec.magnitude, pdl=self._pdl)
        return angles_by_length(
            batch.positions,
            frequencies,
            spec.magnitude,
            how,
            batch.seq_starts,
            batch.rope_lens,
            one_row=longest_rows(batch) == 1,
            pdl=self._pdl,
        )

    def _on(self, spec: RopeSpec, device: torch.device) -> tuple[Tensor, ByLength | None]:
        """The table's numbers on the device; kept, as a copy from the host would make a step
        wait."""
        if spec not in self._numbers:
            how = None
            long = spec.long_inv_freq
            if spec.dynamic is not None or long is not None:
                how = ByLength(
                    None
                    if spec.dynamic is None
                    else torch.tensor(spec.dynamic, dtype=torch.float64, device=device),
                    None if long is None else torch.tensor(long, device=device),
                    spec.switch,
                    spec.long_magnitude,
                )
            self._numbers[spec] = torch.tensor(spec.inv_freq, device=device), how
        return self._numbers[spec]
