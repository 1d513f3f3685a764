"""The records of a mirror: of old and new form they are believed, of another file or damaged they are not."""

from pathlib import Path

import pytest

from bamba_data import canonical_json
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.storage.paths import stored_name
from bamba_data.storage.store import LocalStore
from pipelines.dataset_build.mirror import mirrored
from pipelines.dataset_build.mirror_file import Learned, MirroredFile, identity_of, mirrored_path

FILE = LockedFile("books", "0.json.gz", "https://host/0.json.gz", Facts(4, '"etag"', None))
LEARNED = Learned(4, "ab" * 32)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.put(stored_name(FILE.key), b"data")
    return store


def test_a_sealed_record_is_believed(store: LocalStore) -> None:
    store.put(mirrored_path(FILE), MirroredFile(identity_of(FILE), LEARNED).sealed())
    assert mirrored(store, FILE) == LEARNED


def test_a_record_of_the_form_before_seals_is_believed(store: LocalStore) -> None:
    old = {"identity": identity_of(FILE), "size_bytes": 4, "sha256": "ab" * 32}
    store.put(mirrored_path(FILE), canonical_json.dumps(old))
    assert mirrored(store, FILE) == LEARNED


@pytest.mark.parametrize("identity", [["https://host/other", 4, '"etag"'], ["https://host/0.json.gz", 4, '"later"']])
def test_a_record_of_another_file_is_none_of_this_one(store: LocalStore, identity: list[object]) -> None:
    store.put(mirrored_path(FILE), MirroredFile(identity, LEARNED).sealed())
    assert mirrored(store, FILE) is None


def test_a_damaged_record_or_a_file_of_another_size_is_fetched_again(store: LocalStore) -> None:
    data = MirroredFile(identity_of(FILE), LEARNED).sealed()
    store.put(mirrored_path(FILE), data.replace(b"ab", b"ac", 1))
    assert mirrored(store, FILE) is None
    store.put(mirrored_path(FILE), data)
    store.put(stored_name(FILE.key), b"dat")
    assert mirrored(store, FILE) is None
