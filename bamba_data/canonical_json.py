"""One JSON text for one value, and no value that is not plain: what digests are taken of, and how they are read.

Writing: sorted keys, no spaces, UTF-8, no NaN. Reading refuses what a hostile or torn file may hold: too many
bytes, too deep, duplicate keys, NaN, numbers out of range, lone surrogates. Errors name the place.

Close to RFC 8785 (JCS), and not the same: keys are sorted by code point, not by UTF-16 unit, and integers are exact up
to 64 bits, because token counts pass 2**53.
"""

import hashlib
import json
import math
from collections import Counter
from typing import Any

from bamba_data.errors import CorruptManifest
from bamba_data.sources.json_nesting import with_room

#: Made once: with arguments `json.dumps` makes one a call, a sixth of what a row of a table takes.
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
MAX_INT = 2**63 - 1
#: Arrays and objects open at once; nothing that we write has ten.
MAX_DEPTH = 64


def dumps(value: object) -> bytes:
    """The canonical JSON of `value`, with a newline at its end."""
    return _ENCODER.encode(value).encode() + b"\n"


def digest(value: object) -> str:
    """sha256, in hex, of the canonical JSON of `value`."""
    return sha256(dumps(value))


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def loads(data: bytes, where: str, max_bytes: int) -> Any:
    """Parse JSON that somebody else may have written.

    Raises:
        CorruptManifest: names `where`; larger than `max_bytes`, not JSON in UTF-8, or not plain (see above).
    """
    # Before anything is parsed: callers read one byte more than the limit, so that a huge file costs no memory.
    if len(data) > max_bytes:
        raise CorruptManifest(where, f"{len(data):,} bytes of JSON, the limit is {max_bytes:,}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise CorruptManifest(where, f"key {twice!r} stands twice")
        return fields

    def integer(text: str) -> int:
        # Compare lengths first: int() of a million digits is itself an attack.
        if len(text) > 20 or abs(int(text)) > MAX_INT:
            raise CorruptManifest(where, f"integer {text[:24]} is out of range")
        return int(text)

    def number(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise CorruptManifest(where, f"number {text[:24]} is out of range")
        return value

    def constant(text: str) -> None:
        raise CorruptManifest(where, f"{text} is not JSON")

    hooks: dict[str, Any] = {"parse_int": integer, "parse_float": number, "parse_constant": constant}
    try:
        value = with_room(lambda text: json.loads(text.decode(), object_pairs_hook=unique, **hooks), data)
        if _is_deeper(value, MAX_DEPTH):
            raise RecursionError
        # A lone surrogate can only come of an escape; to write the value anew is the check.
        if b"\\u" in data:
            dumps(value)
        return value
    except UnicodeEncodeError:
        raise CorruptManifest(where, "a string holds a lone surrogate") from None
    except RecursionError:
        raise CorruptManifest(where, f"nested deeper than {MAX_DEPTH}") from None
    except UnicodeDecodeError as error:
        raise CorruptManifest(where, f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise CorruptManifest(where, f"not JSON ({error.msg} at byte {error.pos})") from None


def _is_deeper(value: Any, limit: int) -> bool:
    """Level by level, so that it needs no stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            inner
            for value in level
            for inner in (value.values() if type(value) is dict else value)
            if type(inner) is list or type(inner) is dict
        ]
    return bool(level)
