"""Relative paths that are safe to join to any root, under POSIX and Windows rules alike.

Every path that was read from a manifest, a record or a lock goes through `checked` before it names a file.
"""

import re
import unicodedata

from bamba_data.errors import UnsafePath

_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|*?\\\ud800-\udfff]')


def checked(path: str) -> str:
    """`path` itself, if it is relative, normal, portable, and at most 1,024 bytes long."""
    if not path or len(path.encode(errors="surrogatepass")) > 1024:
        raise UnsafePath(path[:80], "empty or longer than 1,024 bytes")
    if path.startswith("/") or "://" in path or _DRIVE.match(path):
        raise UnsafePath(path, "not relative")
    if found := _FORBIDDEN.search(path):
        raise UnsafePath(path, f"character {found.group()!r}")
    if not unicodedata.is_normalized("NFC", path):
        raise UnsafePath(path, "not in Unicode normal form C: two spellings of one name")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise UnsafePath(path, f"part {part!r}")
        if part[-1] in ". " or _RESERVED.match(part):
            raise UnsafePath(path, f"part {part!r} is not portable")
    return path


def distinct(paths: list[str]) -> None:
    """Refuse two paths that are one, or that a case-insensitive file system would take for one."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.get(path.casefold())
        if other is not None:
            raise UnsafePath(path, "stands twice" if other == path else f"looks like {other!r}")
        seen[path.casefold()] = path
