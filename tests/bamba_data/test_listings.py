"""A host that cannot list is read by the list of paths that it publishes, and by no other."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bamba_data.errors import BambaError, CorruptInput, RecipeError, SourceUnavailable
from bamba_data.locking.lock import Lock, resolve
from bamba_data.recipe import load
from bamba_data.sources import nemotron_cc
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.rate_limit import LocalBudget
from tests.corpora import TOKENIZER
from tests.servers.hub import HubServer

PREFIX = nemotron_cc.PREFIX
FILE = "quality=high/kind=synthetic/kind2=distill/CC-MAIN-2013-20-part-{:05d}.jsonl.zstd"
RECIPE = f"{{name: x, tokenizer: {{url: package:{TOKENIZER.name}}}, corpora: [{{corpus: nemotron-cc, %s}}]}}"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "files").mkdir()
    with HubServer(tmp_path) as server:
        yield server


def publish(host: HubServer, *names: str, paths: bytes | None = None) -> str:
    """Files and the list of them beside their folder; the base to read them at."""
    for name in names:
        (host.root / "files/data-jsonl" / name).parent.mkdir(parents=True, exist_ok=True)
        (host.root / "files/data-jsonl" / name).write_bytes(b"x")
    listed = "".join(f"{PREFIX}{name}\n" for name in names).encode()
    (host.root / "files/data-jsonl.paths.gz").write_bytes(gzip.compress(listed) if paths is None else paths)
    return f"{host.url}/files/data-jsonl"


def locked(base: str, parts: str = "[high/distill]", more: str = "") -> Lock:
    text = RECIPE % f"base: '{base}', parts: {parts}" + more
    return resolve(load(text, "my.yaml"), Path("/"), Fetcher(LocalBudget(1000, 1000), retry_seconds=1))


def test_the_files_of_a_partition_are_those_of_the_list(host: HubServer) -> None:
    other = "quality=high/kind=actual/kind2=actual/CC-MAIN-2013-20-part-00000.jsonl.zstd"
    base = publish(host, FILE.format(1), other, FILE.format(0))
    assert [file.url for file in locked(base).files] == [f"{base}/{FILE.format(number)}" for number in (0, 1)]


def test_the_list_is_asked_for_once_for_all_partitions(host: HubServer) -> None:
    other = "quality=low/kind=actual/kind2=actual/CC-MAIN-2013-20-part-00000.jsonl.zstd"
    locked(publish(host, FILE.format(0), other), "[high/distill, low/actual]")
    whole = [line for line in host.requests if line.method == "GET" and line.range is None]
    assert [line.path for line in whole] == ["/files/data-jsonl.paths.gz"]


def test_a_list_may_be_plain_text_with_blank_lines(host: HubServer) -> None:
    base = publish(host, FILE.format(0), paths=f"\n{PREFIX}{FILE.format(0)}\r\n\n".encode())
    assert [file.path for file in locked(base).files] == [FILE.format(0)]


@pytest.mark.parametrize(
    ("paths", "error", "said"),
    [
        (gzip.compress(b"crawl-data/CC-MAIN-2013-20/x.gz\n"), CorruptInput, "is no list of paths below"),
        (gzip.compress(f"{PREFIX}{FILE.format(0)}\n".encode())[:-9], CorruptInput, "is a damaged list of paths"),
        (b"<html>Slow down</html>", CorruptInput, "is no list of paths below"),
        (b"", RecipeError, "none of the 0 paths in"),
        (gzip.compress(f"{PREFIX}other\n".encode()), RecipeError, "none of the 1 paths in"),
    ],
)
def test_what_is_no_list_of_these_files_is_refused(
    host: HubServer, paths: bytes, error: type[BambaError], said: str
) -> None:
    with pytest.raises(error, match=said):
        locked(publish(host, FILE.format(0), paths=paths))


def test_without_a_list_nothing_is_guessed(host: HubServer) -> None:
    base = publish(host, FILE.format(0))
    (host.root / "files/data-jsonl.paths.gz").unlink()
    with pytest.raises(SourceUnavailable, match=r"data-jsonl\.paths\.gz: .*404"):
        locked(base)


def test_a_listed_file_that_is_gone_is_named(host: HubServer) -> None:
    base = publish(host, FILE.format(0), FILE.format(1))
    (host.root / "files/data-jsonl" / FILE.format(1)).unlink()
    with pytest.raises(SourceUnavailable, match=r"part-00001\.jsonl\.zstd: .*404"):
        locked(base)


def test_another_list_than_the_one_that_is_known_of_the_publisher_is_refused(
    host: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = publish(host, FILE.format(0))
    monkeypatch.setattr(nemotron_cc, "HOST", base)
    found = hashlib.sha256((host.root / "files/data-jsonl.paths.gz").read_bytes()).hexdigest()
    with pytest.raises(RecipeError, match=f"has sha256 {found}, known is {nemotron_cc.PATHS_SHA256}: .*`base`"):
        locked(base)
    monkeypatch.setattr(nemotron_cc, "PATHS_SHA256", found)
    assert len(locked(base).files) == 1


def test_a_store_that_lists_needs_no_list(host: HubServer) -> None:
    publish(host, FILE.format(0))
    (host.root / "files/data-jsonl.paths.gz").unlink()
    assert [file.path for file in locked(str(host.root / "files/data-jsonl")).files] == [FILE.format(0)]
