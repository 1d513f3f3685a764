"""Counts for people, in a unit that fits their size: 39,845 tokens are 39.8k, an axis of 300,000 is in thousands."""

_SHORT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_WORDS = ((1e12, "trillion "), (1e9, "billion "), (1e6, "million "), (1e3, "thousand "), (1, ""))


def short(count: float) -> str:
    """Three digits and a letter, at most five characters below a thousand trillions: 950, 1.20k, 39.8k, 1.46T."""
    for size, letter in _SHORT:
        if count >= size * 0.9995:  # 999.6 would be printed as 1000
            value = count / size
            return f"{value:.{max(0, 2 - (value >= 9.995) - (value >= 99.95))}f}{letter}"
    return f"{count:,.0f}"


def axis_unit(largest: float) -> tuple[float, str]:
    """What to divide the values of an axis by, and the word before what they count: `(1e6, "million ")`."""
    return next(((size, word) for size, word in _WORDS if largest >= size), (1, ""))


def significant(value: float) -> str:
    """Two decimals, or of a smaller value two digits that say something: 12.30, 0.0044, <0.0001."""
    if 0 < value < 0.0001:
        return "<0.0001"
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """In seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
