"""What a field's name means in a JSON record: the field of that very name, or, for `a.b`, the field `b` of `a`."""

from collections.abc import Callable
from typing import Any


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()


def look_up(get: Callable[[str], Any], name: str) -> Any:
    """The value of the field `name`, or ABSENT. `get` gives the fields of the record itself, or ABSENT."""
    value = get(name)
    if value is not ABSENT or "." not in name:
        return value
    first, *rest = name.split(".")
    value = get(first)
    for part in rest:
        value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def first_present(get: Callable[[str], Any], names: list[str]) -> tuple[str, Any]:
    """The first of the names that the record has and that is not null, with its value. Without one: a name that it
    has, and None; or the first name, and ABSENT."""
    best: tuple[str, Any] = (names[0], ABSENT)
    for name in names:
        value = look_up(get, name)
        if value is not None and value is not ABSENT:
            return name, value
        if value is None and best[1] is ABSENT:
            best = (name, None)
    return best


def names_in(record: Any, prefix: str = "", depth: int = 3) -> dict[str, Any]:
    """The fields of a record as rules name them, nested ones with dots, and their values."""
    fields: dict[str, Any] = {}
    for name, value in record.items() if isinstance(record, dict) else ():
        if isinstance(value, dict) and value and depth > 1:
            fields |= names_in(value, f"{prefix}{name}.", depth - 1)
        else:
            fields[f"{prefix}{name}"] = value
    return fields
