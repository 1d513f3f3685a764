"""Names of inputs, and relative paths that are safe to join to any root, under POSIX and Windows rules alike.

Every path that was read from a manifest or a record goes through `checked` before it names a file of ours.

Inputs are named by others: `a:b.jsonl` beside `A:b.jsonl` and a decomposed accent are fine on S3, the hub and a disk
of Linux, and are three files. `input_name` takes what such a store can hold; `stored_name` is what a copy of it is
called, where it must be safe everywhere: the name itself if it is `checked`, else quoted, with a digest.
"""

import hashlib
import re
import unicodedata
from urllib.parse import quote

from bamba_data.errors import UnsafePath

# What Windows refuses in a name: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|*?\\\ud800-\udfff]')
_FORBIDDEN_INPUT = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
#: Names that lead nowhere else at a glance: to look at each part of 100,000 takes longer than to parse their lock.
_PLAIN_INPUT = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.=-]{0,100}(/[0-9A-Za-z_][0-9A-Za-z_.=-]{0,100}){0,8}")
MAX_PATH_BYTES = 1024  # of a key on S3
MAX_STORED_PART_BYTES = 250  # disks take 255; a record beside it ends in .json


def checked(path: str) -> str:
    """`path` itself, if it is relative, normal, portable, and at most 1,024 bytes long.

    Raises:
        UnsafePath: it could lead out of a root, or be another name on another system.
    """
    _relative(path)
    if forbidden := _FORBIDDEN.search(path):
        raise UnsafePath(path, f"character {forbidden.group()!r}")
    if not unicodedata.is_normalized("NFC", path):
        raise UnsafePath(path, "not in Unicode normal form C: two spellings of one name")
    for part in path.split("/"):
        if part[-1] in ". " or _RESERVED.match(part):
            raise UnsafePath(path, f"part {part!r} is not portable")
    return path


def input_name(path: str) -> str:
    """`path` itself, if it leads nowhere but below its base and holds no control character and no backslash.

    Raises:
        UnsafePath: otherwise.
    """
    if _PLAIN_INPUT.fullmatch(path):
        return path
    _relative(path, drives=False)
    if forbidden := _FORBIDDEN_INPUT.search(path):
        raise UnsafePath(path, f"character {forbidden.group()!r}")
    return path


def stored_name(path: str) -> str:
    """What a copy of an input is called: `checked`, no part longer than disks take, one name for one input.

    On a disk that does not tell cases apart two inputs may still meet; their digests then say so.
    """
    try:
        if all(len(part.encode()) <= MAX_STORED_PART_BYTES for part in checked(path).split("/")):
            return path
    except UnsafePath:
        pass
    *folders, name = (quote(part, safe=" !#$&'()+,;=@[]")[:180].rstrip(". ") for part in path.split("/"))
    name = f"{hashlib.sha256(path.encode()).hexdigest()[:16]}~{name}"
    quoted = "/".join([*(f"~{folder}" for folder in folders), name])
    return checked(quoted if len(quoted) <= MAX_PATH_BYTES else name)


def distinct(paths: list[str]) -> None:
    """Refuse two paths that are one, or that a case-insensitive file system would take for one."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.get(path.casefold())
        if other is not None:
            raise UnsafePath(path, "stands twice" if other == path else f"looks like {other!r}")
        seen[path.casefold()] = path


def _relative(path: str, drives: bool = True) -> None:
    if not path or len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise UnsafePath(path[:80], "empty or longer than 1,024 bytes")
    if path.startswith("/") or "://" in path or (drives and _DRIVE.match(path)):
        raise UnsafePath(path, "not relative")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise UnsafePath(path, f"part {part!r}")
