"""Numbers in JSON Schemas as llguidance reads them: as doubles, whose last digits it may change.

A number that it would change cannot be a constant. A bound may lie a little further inside: then
every answer still keeps to the schema's own. So does one that excludes a whole number: next to
another bound (more than 0, at most 0.5) the library would admit that number.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context

_WHOLE = 1 << 53  # up to here every whole number is a double
_LARGEST = 1 << 63  # from here on the library has no bounds
_DIGITS = 15  # of a decimal fraction that are kept

Number = int | float
UP, DOWN = True, False
BOUNDS = {  # keyword -> the direction in which a bound may be moved
    "minimum": UP,
    "exclusiveMinimum": UP,
    "maximum": DOWN,
    "exclusiveMaximum": DOWN,
}


_NEXT_TO_ZERO = 1e-15


def kept(number: Number) -> bool:
    """Whether the library writes this number as it is."""
    if number % 1 == 0 and abs(number) <= _WHOLE:
        return True
    return float(f"{number:.{_DIGITS}g}") == number and abs(number) < _LARGEST


def inside(bound: Number, *, up: bool) -> Number:
    """A number next to `bound`, upwards or downwards, that the library keeps: `bound` itself if it
    does."""
    large = abs(bound) > _WHOLE
    if abs(bound) >= _LARGEST or (kept(bound) and not large):
        return bound
    digits = Context(prec=_DIGITS, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    near = digits.create_decimal(repr(bound))
    if large:  # ranges of integers end at the double's value, those of numbers at its decimals
        return int(digits.next_plus(near) if up else digits.next_minus(near))
    return float(near)


def beyond(bound: Number, *, up: bool) -> Number:
    """The number next to `bound`, of those with so many digits: what lies beyond it."""
    if bound == 0:
        return _NEXT_TO_ZERO if up else -_NEXT_TO_ZERO
    digits = Context(prec=_DIGITS)
    exact = digits.create_decimal(repr(bound))
    return float(digits.next_plus(exact) if up else digits.next_minus(exact))
