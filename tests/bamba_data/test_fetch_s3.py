"""Inputs on a real S3 store: found by name or pattern, read in ranges, and never another object than the locked one."""

import hashlib
import io
import os
import random
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from bamba_data.errors import InputChanged, SourceUnavailable, UserError
from bamba_data.storage import transport
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.storage.transport import Fsspec
from tests.bamba_data.memory import grown
from tests.servers.faults import FOREVER, Action, Fault, LoseReply, Reset, Stall, Status
from tests.servers.proxy import FlakyProxy
from tests.servers.seaweed import SeaweedServer

pytestmark = pytest.mark.s3

DATA = random.Random(3).randbytes(300_000)
NAMES = ["a.json.gz", "b.json.gz", "b.txt", "deep/c.json.gz", "deep/er/d.json.gz"]


@pytest.fixture(scope="module")
def store(s3: SeaweedServer) -> S3FileSystem:
    return s3.filesystem()


@pytest.fixture(scope="module")
def folder(s3: SeaweedServer, store: S3FileSystem) -> str:
    """The URL of a folder with the files of NAMES, to be read only."""
    folder = f"s3://{s3.make_bucket()}/texts"
    store.pipe({f"{folder}/{name}": name.encode() + DATA for name in NAMES})
    return folder


@pytest.fixture
def own(store: S3FileSystem, folder: str) -> str:
    """The name of an object in the folder that the test may change."""
    name = f"own/{uuid.uuid4().hex}.json.gz"
    store.pipe(f"{folder}/{name}", DATA)
    return name


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(retry_seconds=5)


CHANGED = DATA[:-7] + b"another"


def locked(fetcher: Fetcher, folder: str, name: str = "a.json.gz") -> LockedFile:
    ((path, facts),) = fetcher.matches(folder, name)
    return LockedFile("texts", path, f"{folder}/{path}", facts)


def read(fetcher: Fetcher, file: LockedFile) -> bytes:
    with fetcher.stream(file) as stream:
        return stream.read()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.json.gz", ["a.json.gz", "b.json.gz"]),
        ("*/*.json.gz", ["deep/c.json.gz"]),
        ("deep/**/*.json.gz", ["deep/c.json.gz", "deep/er/d.json.gz"]),
        ("b.*", ["b.json.gz", "b.txt"]),
        ("deep/er/d.json.gz", ["deep/er/d.json.gz"]),
        ("nothing*", []),
    ],
)
def test_objects_are_found_by_name_and_pattern(
    pattern: str, expected: list[str], folder: str, fetcher: Fetcher
) -> None:
    assert [path for path, _ in fetcher.matches(folder, pattern)] == expected


@pytest.mark.parametrize("base", ["{}", "{}/"])
def test_size_and_etag_are_told_by_listing_and_by_name_alike(base: str, folder: str, fetcher: Fetcher) -> None:
    etag = f'"{hashlib.md5(b"a.json.gz" + DATA).hexdigest()}"'
    for pattern in ("a.json.gz", "a.*"):
        ((_, facts),) = fetcher.matches(base.format(folder), pattern)
        assert (facts.size_bytes, facts.etag) == (9 + len(DATA), etag)


@pytest.mark.parametrize("name", ["nope.json.gz", "deep", "deep/"])
def test_what_is_no_object_is_no_such_file(name: str, folder: str, fetcher: Fetcher) -> None:
    with pytest.raises(SourceUnavailable, match=f"{folder}/{name}: .*no such file"):
        fetcher.matches(folder, name)


def test_an_object_is_read_whole_and_from_any_byte(
    folder: str, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RANGE_BYTES", 70_000)
    file, whole = locked(fetcher, folder), b"a.json.gz" + DATA
    assert read(fetcher, file) == whole
    for start, end in ((5, None), (69_999, 70_002), (200_000, 300_000)):
        assert b"".join(Fsspec().read(file.url, file.facts, start, end)) == whole[start:end]


Way = Callable[[Fetcher, LockedFile, Path], bytes]
WAYS: dict[str, Way] = {
    "stream": lambda fetcher, file, scratch: read(fetcher, file),
    "stage": lambda fetcher, file, scratch: fetcher.stage(file, scratch).path.read_bytes(),
    "open": lambda fetcher, file, scratch: fetcher.open(file).read(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_object_that_changed_since_the_lock_is_refused(
    way: Way, store: S3FileSystem, folder: str, own: str, fetcher: Fetcher, tmp_path: Path
) -> None:
    file = locked(fetcher, folder, own)
    store.pipe(file.url, CHANGED)
    with pytest.raises(InputChanged, match=r"etag is .*, the lock says"):
        way(fetcher, file, tmp_path)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_object_that_is_gone_is_named(
    way: Way, store: S3FileSystem, folder: str, own: str, fetcher: Fetcher, tmp_path: Path
) -> None:
    file = locked(fetcher, folder, own)
    store.rm(file.url)
    with pytest.raises(SourceUnavailable, match=f"{file.url}: .*no such file"):
        way(fetcher, file, tmp_path)


def test_an_object_that_changes_in_the_middle_is_never_mixed(
    store: S3FileSystem, folder: str, own: str, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RANGE_BYTES", 100_000)
    file = locked(fetcher, folder, own)
    chunks = Fsspec().read(file.url, file.facts, 0)
    next(chunks)
    store.pipe(file.url, CHANGED)
    with pytest.raises(InputChanged, match="etag is 'another"):
        list(chunks)


def test_a_parquet_object_is_read_at_random(store: S3FileSystem, folder: str, own: str, fetcher: Fetcher) -> None:
    data = io.BytesIO()
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(1000)]}), data, row_group_size=100)
    store.pipe(f"{folder}/{own}", data.getvalue())
    with fetcher.open(locked(fetcher, folder, own)) as opened:
        assert pq.ParquetFile(opened).read_row_group(7)["text"].to_pylist() == [f"text {n}" for n in range(700, 800)]


def test_a_staged_object_is_whole_and_verified(folder: str, fetcher: Fetcher, tmp_path: Path) -> None:
    with fetcher.stage(locked(fetcher, folder), tmp_path) as staged:
        assert staged.sha256 == hashlib.sha256(b"a.json.gz" + DATA).hexdigest()


# -- a store that fails, and credentials that are wrong: each in a Python of its own, where the environment is read

CHILD = """
from bamba_data.errors import BambaError
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
def said(fetcher, folder, pattern):
    try:
        ((path, facts),) = fetcher.matches(folder, pattern)
        with fetcher.stream(LockedFile("texts", path, f"{folder}/{path}", facts)) as stream:
            stream.drain()
            return stream.sha256
    except BambaError as error:
        return f"{type(error).__name__}: {error}"
retry_seconds, folder, *patterns = sys.argv[1:]
fetcher = Fetcher(retry_seconds=float(retry_seconds))
done([said(fetcher, folder, pattern) for pattern in patterns], 0)
"""
BOTH_WAYS = ("a.json.gz", "a.*")  # by name, by listing


def said(folder: str, *patterns: str, retry_seconds: float = 0.3) -> list[str]:
    """For each pattern the sha256 of its object, or the error."""
    answers: list[str] = grown(CHILD, retry_seconds, folder, *patterns)[0]
    return answers


@pytest.fixture
def proxy(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """Child processes find the store through it."""
    with FlakyProxy(s3.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def test_a_store_that_fails_for_a_while_is_asked_again(proxy: FlakyProxy, folder: str) -> None:
    actions: list[Action] = [Status(503), Status(500), Reset(), LoseReply(), Stall(0.3)]
    proxy.faults += [Fault("GET .*a.json.gz", action) for action in actions]
    assert said(folder, "a.json.gz", retry_seconds=30) == [hashlib.sha256(b"a.json.gz" + DATA).hexdigest()]
    assert proxy.faults == []


def test_nobody_listening_is_a_typed_error(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for pattern, answer in zip(BOTH_WAYS, said(folder, *BOTH_WAYS), strict=True):
        assert answer.startswith(f"SourceUnavailable: {folder}/{pattern}: not available now (no connection")


def test_wrong_credentials_are_the_users_matter_and_not_shown(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed-secret")
    for answer in said(folder, *BOTH_WAYS):
        assert answer.startswith(f"UserError: {folder}")
        assert "guessed-secret" not in answer


def test_missing_credentials_are_the_users_matter(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    for answer in said(folder, *BOTH_WAYS):
        assert re.match(r"UserError: .*Unable to locate credentials", answer)


def test_a_store_that_refuses_is_not_asked_for_ever(proxy: FlakyProxy, folder: str) -> None:
    proxy.faults.append(Fault("a.json.gz", Status(403, code="AccessDenied"), times=FOREVER))
    (answer,) = said(folder, "a.json.gz", retry_seconds=60)
    assert answer.startswith("UserError: ")
    assert len(proxy.requests) < 5


@pytest.mark.parametrize("pattern", ["*.gz", "a.gz", "deep/*.gz"])
def test_a_bucket_that_is_not_there_is_said_to_be_missing(pattern: str, s3: SeaweedServer, fetcher: Fetcher) -> None:
    with pytest.raises(UserError, match="there is no bucket 'no-such-bucket'"):
        fetcher.matches("s3://no-such-bucket/x", pattern)


def test_brackets_in_the_base_and_odd_letters_in_names_are_letters(
    s3: SeaweedServer, store: S3FileSystem, fetcher: Fetcher
) -> None:
    base = f"s3://{s3.make_bucket()}/run [1]"
    names = ["50% off#1.gz", "a+b.gz", "what?.gz", "x:y.gz", ".hidden.gz"]
    store.pipe({f"{base}/{name}": name.encode() for name in names})
    found = fetcher.matches(base, "*.gz")
    assert [path for path, _ in found] == names[:4]
    for path, facts in found:
        assert read(fetcher, LockedFile("texts", path, f"{base}/{path}", facts)) == path.encode()


@pytest.mark.parametrize("endpoint", ["s3.example.org", "key:s3cr3t@h:80", "http://key:s3cr3t@h:80", "ftp://h"])
def test_an_endpoint_that_is_no_address_or_holds_a_secret_is_refused_and_not_shown(
    endpoint: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for answer in said(folder, *BOTH_WAYS):
        assert answer.startswith("UserError: AWS_ENDPOINT_URL ")
        assert "s3cr3t" not in answer
