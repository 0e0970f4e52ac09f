"""Converts numbers between units of one dimension."""

from decimal import Decimal

# How many of the dimension's first unit one of each is.
_DIMENSIONS: dict[str, dict[str, Decimal]] = {
    "length": {"m": Decimal(1), "km": Decimal(1000), "in": Decimal("0.0254"), "ft": Decimal("0.3048"), "mi": Decimal("1609.344")},
    "mass": {"kg": Decimal(1), "g": Decimal("0.001"), "lb": Decimal("0.45359237"), "oz": Decimal("0.028349523125")},
    "time": {"s": Decimal(1), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)},
}


class UnitError(ValueError):
    """A unit that is unknown, or of another dimension."""


def units() -> dict[str, list[str]]:
    """Return the units of each dimension."""
    return {dimension: sorted(factors) for dimension, factors in _DIMENSIONS.items()}


def convert(value: Decimal, source: str, target: str) -> Decimal:
    """Convert a value from one unit to another, with 12 significant digits.

    Raises UnitError when a unit is unknown, or the two are of different dimensions.
    """
    first, second = _factor(source), _factor(target)
    if first[0] != second[0]:
        raise UnitError(f"{source} is a unit of {first[0]}, {target} one of {second[0]}")
    result = value * first[1] / second[1]
    return result.normalize() if result == 0 else round(result, 11 - result.adjusted()).normalize()


def _factor(unit: str) -> tuple[str, Decimal]:
    for dimension, factors in _DIMENSIONS.items():
        if unit in factors:
            return dimension, factors[unit]
    raise UnitError(f"{unit!r} is no unit known here")
