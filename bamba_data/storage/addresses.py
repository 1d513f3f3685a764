"""URLs as people write them: joined, shown, and refused where a secret stands in them.

A name below a base is literal on every store: `50% off?#1.jsonl` is one file, also over http(s), where it is quoted.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from bamba_data.errors import UserError

#: What stands in a URL's path as it is; `%`, `#`, `?`, spaces and all that is not ASCII are quoted.
_PLAIN = "/!$&'()*+,;=:@~[]"


def joined(base: str, name: str) -> str:
    """The URL of a file: `base` is a URL or folder, `name` the literal name below it."""
    is_web = base.startswith(("http://", "https://"))
    return f"{base.rstrip('/')}/{quote(name, safe=_PLAIN) if is_web else name}"


def shown(url: str) -> str:
    """The URL for a message: without what may be a secret (user, password, query, fragment)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the URL"
    if not parts.scheme or "://" not in url:
        return url
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def absolute(url: str, folder: Path) -> str:
    """A URL without secrets, or a local path as an absolute one; a relative path starts at `folder`.

    Raises:
        UserError: the URL has credentials or a query in it, or is none.
    """
    if "://" not in url:
        return str((folder / url).absolute())
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"not a URL ({error})") from None
    if "@" in parts.netloc:
        raise UserError("a URL with credentials in it is refused: give them in the environment instead")
    if parts.scheme == "file":
        return local_path(url)
    if parts.scheme in ("http", "https") and (parts.query or parts.fragment):
        raise UserError(
            f"{shown(url)}: a URL with a query in it is refused: it may be a secret, and would stand in the manifest"
        )
    return url


def local_path(url: str) -> str:
    """The path that a file:// URL means."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"{shown(url)}: is a path of another machine ({parts.netloc}): file:///path is one of this")
    return unquote(parts.path)


def check_endpoint(*names: str) -> None:
    """Refuse an endpoint of the environment that is no address, or holds a secret; its value is not shown."""
    for name in names:
        value = os.environ.get(name)
        if not value:
            continue
        try:
            parts = urlsplit(value)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != -1
        except ValueError:
            parts, is_address = urlsplit(""), False
        if not is_address:
            raise UserError(f"{name} is no address: it must begin with http:// or https:// and name a host")
        if "@" in parts.netloc or parts.query:
            raise UserError(f"{name} has credentials in it: give them in variables of their own, not in the address")
