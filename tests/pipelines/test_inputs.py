"""An input is read from any row as if from its start, with proof at its end, and never against another file."""

import gzip
import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bamba_data.document import Document, Reject
from bamba_data.errors import CorruptInput, InputChanged
from bamba_data.format.unit_records import Place, ReadInput
from bamba_data.locking.lock import resolve
from bamba_data.recipe import Recipe, load_file
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from pipelines.dataset_build.readers import PrefixDiffers, open_input
from tests import corpora
from tests.servers.faults import EndEarly, Fault
from tests.servers.hub import HubServer

ROWS = 30
RECORDS = corpora.records(ROWS, text_chars=80)
LINES = b"\n" + corpora.lines(RECORDS[:10]) + b"not json\n" + corpora.lines(RECORDS[10:])


START = Place(0, 0, "")


class Given:
    """A file of a recipe, locked."""

    def __init__(self, folder: Path, name: str, form: str, extra: str = "") -> None:
        self.path, self.scratch = folder / "inputs" / name, folder / "scratch"
        recipe_path = corpora.recipe(folder, [name], form, extra=extra)
        self.recipe: Recipe = load_file(recipe_path)
        self.fetcher = Fetcher(retry_seconds=2)
        self.lock = resolve(self.recipe, folder, self.fetcher)
        self.file: LockedFile = self.lock.files[0]

    def read(
        self, begin: Place = START, take: int | None = None, file: LockedFile | None = None
    ) -> tuple[list[Document | Reject], ReadInput | None, str]:
        """The items from `begin`, at most `take`; the proof if they were read to the end; the digest of the prefix."""
        items: list[Document | Reject] = []
        with ExitStack() as stack:
            source = self.lock.sources["texts"]
            opened = open_input(stack, file or self.file, begin, source, self.recipe, self.fetcher, self.scratch)
            for item in opened.items():
                items.append(item)
                opened.prefix.update(item.line)
                if len(items) == take:
                    return items, None, str(opened.prefix)
            assert opened.bytes_read() >= 0
            self.notes = opened.notes
            return items, opened.end(), str(opened.prefix)


def jsonl_gz(folder: Path, extra: str = "") -> Given:
    corpora.write_jsonl(folder / "inputs/x.json.gz", LINES)
    return Given(folder, "x.json.gz", "jsonl", extra)


def jsonl_zst(folder: Path, extra: str = "") -> Given:
    corpora.write_jsonl(folder / "inputs/x.jsonl.zst", LINES)
    return Given(folder, "x.jsonl.zst", "jsonl", extra)


def jsonl_plain(folder: Path, extra: str = "") -> Given:
    corpora.write_jsonl(folder / "inputs/x.jsonl", LINES)
    return Given(folder, "x.jsonl", "jsonl", extra)


def parquet(folder: Path, extra: str = "") -> Given:
    corpora.write_parquet(folder / "inputs/x.parquet", RECORDS)
    return Given(folder, "x.parquet", "parquet", extra)


FORMS = [jsonl_gz, jsonl_zst, jsonl_plain, parquet]
Make = Callable[..., Given]


@pytest.fixture(params=FORMS, ids=lambda form: str(form.__name__))
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


def test_all_records_come_in_order_and_at_the_end_the_proof_of_the_whole_file(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    items, proof, _ = given.read()
    data = given.path.read_bytes()
    assert [item.text for item in items if isinstance(item, Document)] == [record["text"] for record in RECORDS]
    assert proof == ReadInput(0, hashlib.sha256(data).hexdigest(), len(data), True)


def test_going_on_after_any_record_gives_what_a_whole_read_gives_after_it(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    whole, proof, _ = given.read()
    for taken in range(1, len(whole) + 1):
        head, _, prefix = given.read(take=taken)
        rest, again, _ = given.read(Place(0, head[-1].row + 1, prefix))
        assert (head + rest, again) == (whole, proof)


def test_going_on_twice_is_the_same_as_once(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    whole, _, _ = given.read()
    first, _, prefix = given.read(take=7)
    second, _, prefix = given.read(Place(0, first[-1].row + 1, prefix), take=9)
    third, _, _ = given.read(Place(0, second[-1].row + 1, prefix))
    assert first + second + third == whole


def test_a_prefix_of_another_file_is_refused_before_anything_is_given_out(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    head, _, _ = given.read(take=7)
    with pytest.raises(PrefixDiffers, match=r"texts/x.* is not what it was when its first parts were made"):
        given.read(Place(0, head[-1].row + 1, "0" * 32))


def test_a_prefix_beyond_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    given = jsonl_gz(tmp_path)
    with pytest.raises(PrefixDiffers):
        given.read(Place(0, 10_000, "0" * 32))


def test_one_changed_byte_among_the_lines_that_were_read_changes_the_prefix(tmp_path: Path) -> None:
    given = jsonl_plain(tmp_path)
    head, _, prefix = given.read(take=7)
    given.path.write_bytes(LINES.replace(b'"doc-3"', b'"doc-X"'))
    changed = resolve(given.recipe, tmp_path, given.fetcher).files[0]
    with pytest.raises(PrefixDiffers):
        given.read(Place(0, head[-1].row + 1, prefix), file=changed)


def test_a_file_that_changed_since_the_lock_is_refused(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    given.path.write_bytes(given.path.read_bytes() + b"more")
    with pytest.raises(InputChanged, match="size is"):
        given.read()


def test_a_file_with_other_bytes_than_its_sha256_is_refused(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    other = given.file.facts._replace(sha256="0" * 64)
    with pytest.raises(CorruptInput, match="the lock says 000"):
        given.read(file=LockedFile("texts", given.file.path, given.file.url, other))


def test_a_truncated_gzip_gives_no_proof(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/x.json.gz").write_bytes(gzip.compress(LINES, mtime=0)[:-9])
    with pytest.raises(CorruptInput, match="truncated"):
        Given(tmp_path, "x.json.gz", "jsonl").read()


def test_a_bomb_is_stopped_by_the_ratio_of_the_recipe(tmp_path: Path) -> None:
    corpora.write_jsonl(tmp_path / "inputs/x.json.gz", (b'{"text": "' + b"a" * (1 << 20) + b'"}\n') * 100)
    with pytest.raises(CorruptInput, match="more than 10 times"):
        Given(tmp_path, "x.json.gz", "jsonl", "bad_input: {max_inflate_ratio: 10}").read()


def test_a_line_too_long_by_the_recipe_is_one_reject(tmp_path: Path) -> None:
    long = b'{"text": "' + b"x" * 2000 + b'"}\n'
    corpora.write_jsonl(tmp_path / "inputs/x.json.gz", long + corpora.lines(RECORDS[:2]))
    items, proof, _ = Given(tmp_path, "x.json.gz", "jsonl", "bad_input: {max_line_bytes: 1024}").read()
    assert [getattr(item, "reason", "") for item in items] == ["line_too_long", "", ""]
    assert proof
    assert proof.complete


def test_going_on_after_a_line_too_long_is_the_same_as_a_whole_read(tmp_path: Path) -> None:
    long = b'{"text": "' + b"x" * 2000 + b'"}\n'
    corpora.write_jsonl(tmp_path / "inputs/x.json.gz", long + corpora.lines(RECORDS[:2]))
    given = Given(tmp_path, "x.json.gz", "jsonl", "bad_input: {max_line_bytes: 1024}")
    whole, _, _ = given.read()
    head, _, prefix = given.read(take=1)
    rest, _, _ = given.read(Place(0, 1, prefix))
    assert head + rest == whole


# -- compression by content, and files without a byte


def test_a_file_is_read_as_its_content_says_and_the_unlike_name_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/x.jsonl").write_bytes(gzip.compress(LINES, mtime=0))
    (tmp_path / "inputs/y.json.gz").write_bytes(LINES)
    expected = jsonl_plain(tmp_path / "plain").read()[0]
    for name in ("x.jsonl", "y.json.gz"):
        given = Given(tmp_path, name, "jsonl")
        items, proof, _ = given.read()
        texts = [[getattr(item, "text", "") for item in some] for some in (items, expected)]
        assert texts[0] == texts[1]
        assert proof
        assert (proof.complete, given.notes) == (True, ["compression_unlike_name"])


@pytest.mark.parametrize(("name", "form"), [("x.jsonl", "jsonl"), ("x.json.gz", "jsonl"), ("x.parquet", "parquet")])
def test_a_file_without_a_byte_is_an_error_or_an_input_without_records_as_the_recipe_says(
    name: str, form: str, tmp_path: Path
) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / name).touch()
    with pytest.raises(CorruptInput, match=r"the file is empty \(bad_input.empty_files: keep takes such files"):
        Given(tmp_path, name, form).read()
    given = Given(tmp_path, name, form, "bad_input: {empty_files: keep}")
    items, proof, _ = given.read()
    assert (items, proof) == ([], ReadInput(0, hashlib.sha256(b"").hexdigest(), 0, True))
    assert given.notes == ["empty_file"]


# -- a taste


@pytest.mark.parametrize(("limit", "rows"), [(1, 1), (7, 7), (29, 29)])
def test_a_limit_takes_the_first_records_and_claims_no_proof_of_the_rest(limit: int, rows: int, tmp_path: Path) -> None:
    given = parquet(tmp_path, f"limits: {{documents: {limit}}}")
    items, proof, _ = given.read()
    assert [item.row for item in items] == list(range(rows))
    assert proof == ReadInput(0, None, given.path.stat().st_size, False)


def test_a_limit_of_lines_counts_rows_of_the_file(tmp_path: Path) -> None:
    given = jsonl_gz(tmp_path, "limits: {documents: 5}")
    items, proof, _ = given.read()
    assert [item.row for item in items] == [1, 2, 3, 4]  # row 0 is blank
    assert proof == ReadInput(0, None, given.path.stat().st_size, False)


def test_a_limit_beyond_the_end_of_the_lines_is_the_whole_file_with_its_proof(tmp_path: Path) -> None:
    given = jsonl_gz(tmp_path, "limits: {documents: 1000}")
    items, proof, _ = given.read()
    assert len(items) == ROWS + 1
    assert proof == ReadInput(0, hashlib.sha256(given.path.read_bytes()).hexdigest(), given.path.stat().st_size, True)


def test_a_taste_of_a_changed_parquet_file_is_refused(tmp_path: Path) -> None:
    given = parquet(tmp_path, "limits: {documents: 5}")
    os.utime(given.path, (1, 1))
    with pytest.raises(InputChanged, match="etag is"):
        given.read()


# -- over the network


def remote(given: Given, folder: Path, server: HubServer) -> LockedFile:
    url = f"{server.url}/files/{given.file.path}"
    ((_, facts),) = given.fetcher.matches(f"{server.url}/files", given.file.path)
    return LockedFile("texts", given.file.path, url, facts)


def test_a_remote_file_gives_what_the_local_one_gives_through_breaks(make: Make, tmp_path: Path) -> None:
    given = make(tmp_path)
    (tmp_path / "files").symlink_to(tmp_path / "inputs")
    with HubServer(tmp_path) as server:
        file = remote(given, tmp_path, server)
        server.faults += [Fault("GET", EndEarly(100)), Fault("GET", EndEarly(3))]
        assert given.read(file=file) == given.read()
        assert not given.scratch.exists() or list(given.scratch.iterdir()) == []


def test_a_taste_of_a_remote_parquet_file_does_not_fetch_it_all(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": str(n), "text": os.urandom(2000).hex()} for n in range(5000)]
    corpora.write_parquet(tmp_path / "inputs/x.parquet", rows, row_group_size=500)
    given = Given(tmp_path, "x.parquet", "parquet", "limits: {documents: 5}")
    (tmp_path / "files").symlink_to(tmp_path / "inputs")
    with HubServer(tmp_path) as server:
        items, _, _ = given.read(file=remote(given, tmp_path, server))
        asked = [line.range for line in server.requests if line.method == "GET"]
    size = given.path.stat().st_size
    fetched = sum(_length(part, size) for part in asked)
    assert [item.row for item in items] == list(range(5))
    assert fetched < size


def _length(asked: str | None, size: int) -> int:
    assert asked is not None, "the whole file was asked for"
    start, _, end = asked.removeprefix("bytes=").partition("-")
    return (int(end) + 1 if end else size) - int(start)
