"""`CudaPlanOps`: counts what `CudaOps` stores. Torch stays out of it until a matrix is counted."""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Weight
from rbee_worker.ops.plan import PlanOps, Use


class CudaPlanOps(PlanOps):
    """planes, resident, integers, f8: see `matrix.Forms`. read: count what a product of one
    row reads, which is one of the forms of a matrix that is kept in several."""

    def __init__(
        self,
        dtype: str,
        *,
        planes: bool = True,
        resident: bool = True,
        integers: bool = True,
        f8: bool = False,
        read: bool = False,
    ) -> None:
        from rbee_worker.ops.cuda.kernels.packed.planes import WORDS
        from rbee_worker.ops.cuda.matrix import F8_BLOCKS, Forms, held_form, planes_bytes

        forms = Forms(planes, resident, integers, f8)

        def held(format: str, rows: int, cols: int) -> tuple[str, int]:
            if read and planes and format in WORDS:
                return "planes", planes_bytes(format, rows, cols)
            return held_form(format, rows, cols, dtype, forms)

        super().__init__(dtype, held=held)
        self._f8_blocks = F8_BLOCKS

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        """Several matrices together are stored as floats, whatever their format, unless that is
        8-bit floats in blocks."""
        if len(members) == 1 or all(part.format == self._f8_blocks for part in members[0]):
            return super().stack(members)
        floats = PlanOps(self.dtype)
        weight = floats.stack(members)
        for key, use in floats.uses.items():
            old = self.uses.get(key, Use())
            self.uses[key] = Use(*(a + b for a, b in zip(old, use, strict=True)))
        return weight
