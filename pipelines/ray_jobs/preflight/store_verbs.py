"""Every verb that publishing needs of a store, tried on objects of our own, which are removed again."""

import os
import secrets
import time
from collections.abc import Callable, Iterator

from bamba_data.errors import BambaError
from bamba_data.format.layout import PREFLIGHT
from bamba_data.storage.store import Store, now, open_store

from .create_race import race_here
from .finding import Finding, judged, missing
from .network import host_of, https_proxy, reach

MAX_SKEW_SECONDS = 300.0  # S3 refuses requests that are signed 15 minutes off
RIGHTS = "write and list and delete rights below it; AWS_* (secret bamba-s3, ConfigMap bamba-settings)"
CONDITIONAL = "a store that keeps If-None-Match: two publishers would otherwise overwrite each other"

#: A verb gives whether the store did as it should, and what it did.
Verb = Callable[[Store, str], tuple[bool, str]]


def store(out: str) -> Iterator[Finding]:
    """Stops at the first verb that fails: the others would fail for the same reason."""
    if out.startswith("s3://"):
        has_keys = bool(os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"))
        detail = "in the environment" if has_keys else "none in the environment: an instance's role, if there is one"
        yield judged("S3 credentials", has_keys, detail, "the secret bamba-s3", otherwise="note")
        endpoint = host_of(os.environ.get("AWS_ENDPOINT_URL", ""))
        if endpoint and not https_proxy():
            reached = reach("S3 endpoint", endpoint)
            yield reached
            if reached.is_missing:
                return
    path = f"{PREFLIGHT}/{secrets.token_hex(6)}"
    check = "store"
    try:
        place = open_store(out)
        for name, verb, way_out in VERBS:
            check = f"store: {name}"
            yield judged(check, *verb(place, path), way_out)
    except (BambaError, OSError) as error:
        detail = str(error) if check == "store" else f"{type(error).__name__}: {error}"
        yield missing(check, detail, RIGHTS)


def _write(place: Store, path: str) -> tuple[bool, str]:
    began = time.monotonic()
    place.put(f"{path}/a", _data(path))
    return True, f"64 KiB in {1000 * (time.monotonic() - began):,.0f} ms at {place.url}"


def _read(place: Store, path: str) -> tuple[bool, str]:
    data = _data(path)
    if place.read(f"{path}/a") != data or place.read_range(f"{path}/a", 5, 9) != data[5:9]:
        return False, "it gives other bytes than were written"
    return True, "the bytes that were written"


def _create(place: Store, path: str) -> tuple[bool, str]:
    first, second = place.create(f"{path}/b", b"1"), place.create(f"{path}/b", b"2")
    if (first, second) != (True, False) or place.read(f"{path}/b") != b"1":
        return False, "a second writer replaced the first one's object"
    return True, "the second writer is refused"


def _create_at_once(place: Store, path: str) -> tuple[bool, str]:
    return race_here(place, f"{path}-race")


def _list(place: Store, path: str) -> tuple[bool, str]:
    listed = {entry.path for entry in place.list(path)}
    if listed != {f"{path}/a", f"{path}/b"}:
        return False, f"{len(listed)} of 2 objects are listed"
    return True, "both objects"


def _clock(place: Store, path: str) -> tuple[bool, str]:
    skew_seconds = time.time() - now(place, path)
    return abs(skew_seconds) <= MAX_SKEW_SECONDS, f"ours is {skew_seconds:+,.0f} s off the store's"


def _delete(place: Store, path: str) -> tuple[bool, str]:
    for name in ("a", "b"):
        place.delete(f"{path}/{name}")
    return (True, "gone") if place.stat(f"{path}/a") is None else (False, "it is still there")


def _data(path: str) -> bytes:
    return (path.encode() * (1 + (1 << 16) // len(path)))[: 1 << 16]


VERBS: tuple[tuple[str, Verb, str], ...] = (
    ("write", _write, RIGHTS),
    ("read", _read, RIGHTS),
    ("create if absent", _create, CONDITIONAL),
    ("create if absent, at once", _create_at_once, CONDITIONAL),
    ("list", _list, RIGHTS),
    ("clock", _clock, "set the clock (NTP): requests are signed with it"),
    ("delete", _delete, RIGHTS),
)
