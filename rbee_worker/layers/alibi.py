"""ALiBi: attention that favours near keys, with a slope for each head."""

from __future__ import annotations


def slopes(heads: int, max_bias: float = 8.0) -> list[float]:
    """One slope per head (Press et al. 2022): geometric down to 2^-max_bias for a power of two.

    For another number of heads, every second slope of the next power of two fills the rest.
    """
    power = 1 << (heads.bit_length() - 1)
    near = [2.0 ** (-max_bias * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-max_bias * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return (near + between)[:heads]
