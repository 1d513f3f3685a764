"""Publishers of datasets that differ by their name alone, each of which goes on until it has published."""

from bamba_data.errors import Unfinished
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version, publish
from bamba_data.storage.store import open_store

LOCK = "0" * 64


def named(one: Manifest, name: str) -> Manifest:
    """Another dataset."""
    return Manifest.model_validate({**one.model_dump(mode="json"), "name": name})


def until_published(url: str, wanted: Manifest, build: str) -> tuple[Version, int]:
    """As a user does it: told to run again, run again. How often it took."""
    for tries in range(1, 100):
        try:
            return publish(open_store(url), wanted, build, LOCK), tries
        except Unfinished:
            continue
    raise AssertionError("never published")
