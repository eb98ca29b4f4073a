"""Sums of floating-point numbers that do not depend on the order of adding.

Workers finish blocks in any order, and a report must not differ between two runs. So a float is
taken as the whole number of 2**-1074 that it is; such numbers add without rounding.
"""

from __future__ import annotations

from fractions import Fraction

_UNIT_BITS = 1074
"""The smallest fp64 number is 2**-1074."""


def exact(value: float) -> int:
    """A finite number in units of 2**-1074."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_UNIT_BITS - denominator.bit_length() + 1)


def rounded(total: int) -> float:
    """The float nearest to a sum of `exact` numbers."""
    return float(Fraction(total, 1 << _UNIT_BITS))
