"""Arguments as people give them: a number of numpy is a number, text is not, and what is refused is named."""

import operator
from typing import Any

from bamba_data.errors import UserError


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`. Raises UserError, which names the argument."""
    if isinstance(value, bool):  # True is 1 to Python: rank=True is a slip
        raise UserError(f"{name} is {value!r}: it must be a whole number")
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(
            f"{name} is {value!r}, a {type(value).__name__}: it must be a whole number (int(...) makes one)"
        ) from None
    if number < least:
        raise UserError(f"{name} is {number:,}: it must be {least:,} or more")
    return number


def number(name: str, value: Any) -> float:
    """`value` as a float. Raises UserError, which names the argument."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}: it must be a number") from None


def switch(name: str, value: Any) -> None:
    """Raises UserError for what is neither True nor False: text that says "no" is true to Python."""
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: it must be True or False")
