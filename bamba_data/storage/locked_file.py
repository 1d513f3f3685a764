"""A locked input: the one file that a name means, frozen before any work starts."""

from dataclasses import dataclass
from typing import NamedTuple


class Facts(NamedTuple):
    """What a host tells of a file without sending it. `etag` is opaque: an HTTP or S3 ETag, the time of a local
    file; `sha256` is known where the host knows it (hub LFS) or an earlier build learned it."""

    size_bytes: int | None
    etag: str | None = None
    sha256: str | None = None


#: Of an input that was in quarantine when the others were locked: nobody was asked about it.
NOT_ASKED = Facts(None, "not asked")


@dataclass(frozen=True, slots=True)
class LockedFile:
    """`path` is its name within the source (as recipes and manifests say it), `url` where the bytes are."""

    source: str
    path: str
    url: str
    facts: Facts

    @property
    def key(self) -> str:
        """How people name an input: `<source>/<path>`."""
        return f"{self.source}/{self.path}"

    @property
    def is_remote(self) -> bool:
        return "://" in self.url and not self.url.startswith("file://")
