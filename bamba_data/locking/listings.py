"""What files a host has that cannot list them: by the list of paths that it publishes."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Sequence

from bamba_data.errors import CorruptInput, RecipeError
from bamba_data.sources.base import Listing
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.transport import path_matches

MAX_BYTES = 256 << 20  # of a list, unpacked too


def listed_names(listing: Listing, fetcher: Fetcher) -> tuple[str, ...]:
    """All names below the location's base, sorted, each once.

    Raises:
        RecipeError: the list is another one than is known.
        CorruptInput: it is no list of such paths.
        SourceUnavailable: its host does not answer now.
    """
    data = fetcher.read_all(listing.url, MAX_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if listing.sha256 not in (None, digest):
        raise RecipeError(
            f"{listing.url}: has sha256 {digest}, known is {listing.sha256}: its host has other files now than those "
            "that were published first. Copy what is there, and name the copy as `base`"
        )
    if data.startswith(b"\x1f\x8b"):
        data = _inflated(data, listing.url)
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    if strange := next((line for line in lines if not line.startswith(listing.prefix)), None):
        raise CorruptInput(listing.url, f"is no list of paths below {listing.prefix!r}: it has {strange[:100]!r}", 0)
    return tuple(sorted({line.removeprefix(listing.prefix) for line in lines}))


def chosen(names: Sequence[str], patterns: Sequence[str], where: str) -> tuple[str, ...]:
    """The names that the patterns mean, in the order of the patterns. Raises RecipeError for one that means none."""
    found: list[str] = []
    for pattern in patterns:
        meant = [name for name in names if path_matches(name, pattern)]
        if not meant:
            raise RecipeError(f"none of the {len(names):,} paths in {where} matches {pattern!r}")
        found += meant
    return tuple(found)


def _inflated(data: bytes, url: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptInput(url, f"is a damaged list of paths: {error}", 0) from None
    if len(content) > MAX_BYTES:
        raise CorruptInput(url, f"is no list of paths: it unpacks to more than {MAX_BYTES:,} bytes", 0)
    return content
