"""The columns of a head as one or two parts whose widths are powers of two, as Triton needs them.

Padding 576 columns to 1,024 would nearly double the work, so they become 512 and 64; 80 become 64
and 16, and 192 become 128 and 64. Only a part that still has more columns than the head is masked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

SMALLEST = 16  # columns that a product on tensor cores needs


class Columns(NamedTuple):
    """dim columns: `first` from column 0 and `second` (0: none) from there; some may be padding."""

    dim: int
    first: int
    second: int


def power_of_two(number: int) -> int:
    """The lowest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def columns(dim: int) -> Columns:
    """The parts of a head of `dim` columns."""
    assert dim > 0
    whole = max(SMALLEST, power_of_two(dim))
    half = whole // 2
    rest = max(SMALLEST, power_of_two(dim - half)) if dim > half else 0
    if whole == dim or half < SMALLEST or half + rest >= whole:
        return Columns(dim, whole, 0)
    return Columns(dim, half, rest)


class Parts(NamedTuple):
    """How keys and values are cut into columns, and whether values are the keys' first ones."""

    k: Columns
    v: Columns
    latent: bool

    @classmethod
    def of(cls, k_dim: int, v_dim: int, latent: bool) -> Parts:
        """The parts of heads of these sizes."""
        k = columns(k_dim)
        if latent:  # the values' parts are the keys' parts
            v = Columns(v_dim, k.first, k.second if v_dim > k.first else 0)
        else:
            v = columns(v_dim)
        return cls(k, v, latent)

    def arguments(self) -> dict[str, Any]:
        """Kernel arguments."""
        return {
            "K_DIM": self.k.dim,
            "K0": self.k.first,
            "K1": self.k.second,
            "V_DIM": self.v.dim,
            "V0": self.v.first,
            "V1": self.v.second,
            "LATENT": self.latent,
        }
