"""ALiBi: attention that prefers near keys by a slope of its own for each head."""

from __future__ import annotations


def slopes(heads: int, max_bias: float = 8.0) -> list[float]:
    """One slope a head (Press et al. 2022): geometric for a power of two, 2^-max_bias last.

    For another number of heads the next power's slopes fill up, every second of them.
    """
    power = 1 << (heads.bit_length() - 1)
    near = [2.0 ** (-max_bias * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-max_bias * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return (near + between)[:heads]
