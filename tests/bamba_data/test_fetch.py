"""What arrives is the locked file, byte for byte, or an error that names it: whatever the host does on the way."""

import gzip
import hashlib
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bamba_data.errors import CorruptInput, InputChanged, InputTooLarge, SourceRefused, SourceUnavailable, UserError
from bamba_data.sources.decompress import inflate
from bamba_data.storage import transport
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.storage.rate_limit import LocalBudget
from tests.servers.faults import (
    FOREVER,
    Action,
    EndEarly,
    Fault,
    FlipBit,
    IgnoreRange,
    Replace,
    Reset,
    Stall,
    Status,
    Truncate,
)
from tests.servers.hub import HubServer

NAME = "books-0000.json.gz"
DATA = gzip.compress(random.Random(7).randbytes(2_200_000), 0, mtime=0)
MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / NAME).write_bytes(DATA)
    with HubServer(tmp_path) as server:
        yield server


Retries = list[tuple[str, float]]


@pytest.fixture
def retries() -> Retries:
    return []


@pytest.fixture
def fetcher(retries: Retries) -> Fetcher:
    return Fetcher(LocalBudget(1000, 1000), 4.0, lambda cause, seconds: retries.append((cause, seconds)))


def impatient() -> Fetcher:
    return Fetcher(LocalBudget(1000, 1000), retry_seconds=0.3)


def locked(fetcher: Fetcher, host: HubServer, sha256: str | None = None) -> LockedFile:
    """The file as a lock freezes it."""
    ((path, facts),) = fetcher.matches(f"{host.url}/files", NAME)
    host.requests.clear()
    return LockedFile("books", path, f"{host.url}/files/{path}", facts._replace(sha256=sha256))


def read(fetcher: Fetcher, file: LockedFile) -> bytes:
    with fetcher.stream(file) as stream:
        return stream.read()


SHA256 = hashlib.sha256(DATA).hexdigest()


# -- a stream


def test_a_stream_knows_its_sha256_at_its_end(host: HubServer, fetcher: Fetcher) -> None:
    with fetcher.stream(locked(fetcher, host)) as stream:
        stream.drain()
        assert (stream.sha256, stream.bytes_read, stream.complete) == (SHA256, len(DATA), True)


PLACES = [0, 1, 1000, MIB - 1, MIB, MIB + 1, 2 * MIB, len(DATA) - 1]


@pytest.mark.parametrize("after_bytes", PLACES)
@pytest.mark.parametrize("fault", [Reset, EndEarly])
def test_a_connection_that_breaks_anywhere_is_taken_up_where_it_was(
    fault: Callable[[int], Action], after_bytes: int, host: HubServer, fetcher: Fetcher
) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", fault(after_bytes)))
    assert read(fetcher, file) == DATA


def test_a_connection_that_breaks_again_and_again_is_taken_up_each_time(
    host: HubServer, fetcher: Fetcher, retries: Retries
) -> None:
    file = locked(fetcher, host, SHA256)
    host.faults.extend(Fault("GET", EndEarly(bytes_)) for bytes_ in (500_001, 77, 1_000_003, 0, 1))
    assert read(fetcher, file) == DATA
    assert len(retries) == 5


def test_what_was_received_is_not_asked_for_again(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", EndEarly(MIB)))
    read(fetcher, file)
    assert [(line.range, line.if_range) for line in host.requests] == [
        (None, None),
        (f"bytes={MIB}-", file.facts.etag),
    ]


def test_a_host_that_ignores_ranges_costs_time_and_nothing_else(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults += [Fault("GET", EndEarly(MIB + 5)), Fault("GET", IgnoreRange())]
    assert read(fetcher, file) == DATA


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_waited_out(status: int, host: HubServer, fetcher: Fetcher, retries: Retries) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", Status(status, retry_after_seconds=0)))
    assert read(fetcher, file) == DATA
    assert [cause for cause, _ in retries] == [f"status {status}"]


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_is_refused_twice_is_refused(status: int, host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", Status(status), times=FOREVER))
    with pytest.raises(SourceUnavailable, match=rf"{NAME}: not available now \(status {status}, 2 tries\)"):
        read(fetcher, file)
    assert len(host.requests) == 2


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_is_refused_once_is_not_given_up(status: int, host: HubServer, fetcher: Fetcher) -> None:
    """Hosts in trouble say 404, too: also after they have said 503."""
    file = locked(fetcher, host)
    host.faults += [Fault("GET", Status(503), times=2), Fault("GET", Status(status))]
    assert read(fetcher, file) == DATA


def test_a_host_that_does_not_recover_is_given_up_with_what_it_said_last(host: HubServer) -> None:
    file = locked(impatient(), host)
    host.faults.append(Fault("GET", Status(500), times=FOREVER))
    with pytest.raises(SourceUnavailable, match=rf"{NAME}: not available now \(status 500, \d tries\); run the same"):
        read(impatient(), file)


def test_nobody_listening_is_given_up_in_time() -> None:
    file = LockedFile("books", NAME, f"http://127.0.0.1:9/{NAME}", Facts(1))
    with pytest.raises(SourceUnavailable, match="no connection"):
        read(impatient(), file)


def test_retries_are_bounded_by_time_without_progress_and_not_in_all(host: HubServer) -> None:
    """Each break costs some 0.1 s; together they take longer than the 0.3 s that one may."""
    file = locked(impatient(), host)
    host.faults.append(Fault("GET", EndEarly(200_000), times=9))
    assert read(Fetcher(LocalBudget(1000, 1000), retry_seconds=0.3), file) == DATA


# -- what a host asks us to wait


@pytest.mark.parametrize("told", [Status(429, retry_after_seconds=1), Status(429, ratelimit_seconds=1)])
def test_a_host_that_says_when_to_come_back_is_obeyed(told: Status, host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", told))
    began = time.monotonic()
    assert read(fetcher, file) == DATA
    assert 1.0 <= time.monotonic() - began < 3.0


def test_one_thread_that_is_told_to_wait_makes_all_wait(host: HubServer) -> None:
    fetcher = Fetcher(LocalBudget(1000, 1000), retry_seconds=10)
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", Status(429, retry_after_seconds=1)))
    with pytest.raises(transport.Passing):
        next(fetcher.transport(file.url).read(file.url, file.facts, 0))
    began = time.monotonic()
    arrived: list[float] = []

    def one() -> None:
        assert read(fetcher, file) == DATA
        arrived.append(time.monotonic() - began)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(arrived) == 4
    assert min(arrived) >= 0.9


def test_under_a_rate_limit_many_threads_all_arrive(host: HubServer, tmp_path: Path) -> None:
    with HubServer(tmp_path, rate_limit=5) as limited:
        fetcher = Fetcher(LocalBudget(1000, 1000), retry_seconds=30)
        file = locked(fetcher, limited)
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(read(fetcher, file))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [DATA] * 8
        assert len(limited.requests) < 8 * 3


@pytest.mark.timeout(30)
def test_a_host_that_asks_to_wait_longer_than_we_retry_is_given_up_at_once(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", Status(429, retry_after_seconds=10_000_000), times=FOREVER))
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="status 429, 1 tries, it asks to wait 3,600 s"):
        read(fetcher, file)
    assert time.monotonic() - began < 2


def test_the_budget_spaces_the_requests(host: HubServer) -> None:
    fetcher = Fetcher(LocalBudget(requests_per_second=10, burst=1), retry_seconds=4)
    began = time.monotonic()
    for _ in range(6):
        fetcher.matches(f"{host.url}/files", NAME)
    assert time.monotonic() - began >= 0.45


# -- a host that stalls


@pytest.mark.parametrize("after_bytes", [None, 0, 500_000])
def test_a_host_that_stalls_is_left_and_asked_again(
    after_bytes: int | None, host: HubServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = locked(fetcher, host)
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", (1.0, 0.3))
    host.faults.append(Fault("GET", Stall(30, after_bytes)))
    began = time.monotonic()
    assert read(fetcher, file) == DATA
    assert time.monotonic() - began < 5


# -- a file that is not the locked one


@pytest.mark.parametrize(("content", "field"), [(DATA[:-7] + b"another", "etag"), (DATA + b"more", "size")])
def test_a_file_that_changed_since_the_lock_is_named_with_both_sides(
    content: bytes, field: str, host: HubServer, fetcher: Fetcher
) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", Replace(content), times=FOREVER))
    with pytest.raises(InputChanged) as caught:
        read(fetcher, file)
    error = caught.value
    assert (error.url, error.field, error.locked) == (
        file.url,
        field,
        {"etag": file.facts.etag, "size": len(DATA)}[field],
    )
    assert error.found != error.locked


@pytest.mark.parametrize("after_bytes", [1000, MIB + 1])
def test_a_file_that_changes_in_the_middle_is_never_mixed(after_bytes: int, host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    changed = DATA[:-7] + b"another"
    host.faults += [Fault("GET", EndEarly(after_bytes)), Fault("GET", Replace(changed), times=FOREVER)]
    with pytest.raises(InputChanged):
        read(fetcher, file)


def test_a_file_that_is_shorter_than_where_we_were_has_changed(host: HubServer, fetcher: Fetcher) -> None:
    file = LockedFile("books", NAME, f"{host.url}/files/{NAME}", Facts(len(DATA)))
    host.faults += [Fault("GET", EndEarly(MIB)), Fault("GET", Replace(b"short"), times=FOREVER)]
    with pytest.raises(InputChanged):
        read(fetcher, file)


@pytest.mark.parametrize("with_sha256", [True, False])
def test_a_body_that_is_cut_under_a_consistent_length_is_never_taken_for_the_file(
    with_sha256: bool, host: HubServer
) -> None:
    file = locked(impatient(), host, SHA256 if with_sha256 else None)
    host.faults.append(Fault("GET", Truncate(1_000_000), times=FOREVER))
    with pytest.raises((InputChanged, SourceUnavailable)):
        read(impatient(), file)


def test_a_range_that_is_cut_under_a_consistent_length_is_taken_up_where_it_ended(
    host: HubServer, fetcher: Fetcher
) -> None:
    file = locked(fetcher, host)
    host.faults += [Fault("GET", EndEarly(MIB)), Fault("GET", Truncate(500_000)), Fault("GET", Truncate(1))]
    assert read(fetcher, file) == DATA


def test_a_flipped_bit_is_found_by_the_sha256(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host, SHA256)
    host.faults.append(Fault("GET", FlipBit(1_234_567)))
    with pytest.raises(CorruptInput, match=f"sha256 is .*, the lock says {SHA256}"):
        read(fetcher, file)


def test_a_flipped_bit_is_found_by_gzip_where_no_sha256_is_known(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", FlipBit(1_234_567)))
    with pytest.raises(CorruptInput, match="damaged"), fetcher.stream(file) as stream:
        list(inflate(stream.chunks(), file.url, 200))


def test_an_error_of_the_read_ahead_thread_reaches_the_reader_and_the_thread_ends(
    host: HubServer, fetcher: Fetcher
) -> None:
    file = locked(fetcher, host, "0" * 64)
    host.faults.append(Fault("GET", Status(410)))
    with pytest.raises(SourceRefused):
        read(fetcher, file)
    assert _threads_end("read-ahead")


def test_a_stream_that_is_left_early_stops_fetching(host: HubServer, fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "files" / NAME).write_bytes(os.urandom(40 * MIB))
    with fetcher.stream(locked(fetcher, host)) as stream:
        next(stream.chunks())
    assert _threads_end("read-ahead")


def _threads_end(name: str, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while any(thread.name == name for thread in threading.enumerate()):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# -- a small file, whole


def test_a_small_file_is_read_whole(host: HubServer, fetcher: Fetcher) -> None:
    assert fetcher.read_all(f"{host.url}/files/{NAME}", max_bytes=len(DATA)) == DATA


def test_a_file_larger_than_expected_is_not_read_into_memory(host: HubServer, fetcher: Fetcher) -> None:
    with pytest.raises(InputTooLarge, match="more than 100,000 bytes"):
        fetcher.read_all(f"{host.url}/files/{NAME}", max_bytes=100_000)


# -- staged


def test_a_staged_file_is_whole_verified_and_gone_afterwards(host: HubServer, fetcher: Fetcher, tmp_path: Path) -> None:
    with fetcher.stage(locked(fetcher, host), tmp_path / "scratch") as staged:
        assert (staged.path.read_bytes(), staged.sha256) == (DATA, SHA256)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("flips", [1, 2])
def test_staging_heals_when_a_later_fetch_is_right(
    flips: int, host: HubServer, fetcher: Fetcher, retries: Retries, tmp_path: Path
) -> None:
    file = locked(fetcher, host, SHA256)
    host.faults.append(Fault("GET", FlipBit(1_234_567), times=flips))
    with fetcher.stage(file, tmp_path / "scratch") as staged:
        assert staged.path.read_bytes() == DATA
    assert [cause for cause, _ in retries] == ["wrong bytes"] * flips


def test_bytes_that_stay_wrong_are_a_verdict_after_three_fetches(
    host: HubServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    file = locked(fetcher, host, SHA256)
    host.faults.append(Fault("GET", FlipBit(1_234_567), times=FOREVER))
    with pytest.raises(CorruptInput, match="the lock says"):
        fetcher.stage(file, tmp_path / "scratch")
    assert (len(host.requests), list((tmp_path / "scratch").iterdir())) == (3, [])


STAGE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts, LockedFile
url, etag, size, scratch, how = sys.argv[1:]
file = LockedFile("books", "x", url, Facts(int(size), etag))
if how == "in the middle":
    import bamba_data.storage.fetch
    class Dying(bamba_data.storage.fetch.Stream):
        def chunks(self):
            for chunk in super().chunks():
                yield chunk
                os.kill(os.getpid(), signal.SIGKILL)
    bamba_data.storage.fetch.Stream = Dying
staged = Fetcher().stage(file, Path(scratch))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_staging(file: LockedFile, scratch: Path, how: str) -> None:
    facts = [str(file.facts.etag), str(file.facts.size_bytes)]
    run = subprocess.run([sys.executable, "-c", STAGE_AND_DIE, file.url, *facts, str(scratch), how], check=False)
    assert run.returncode == -9
    assert len(list(scratch.iterdir())) == 1


def test_a_copy_that_a_killed_process_left_is_taken_over_without_a_request(
    host: HubServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    file, scratch = locked(fetcher, host), tmp_path / "scratch"
    killed_while_staging(file, scratch, "at the end")
    host.requests.clear()
    with fetcher.stage(file, scratch) as staged:
        assert (staged.path.read_bytes(), host.requests) == (DATA, [])
    assert list(scratch.iterdir()) == []


def test_half_a_copy_that_a_killed_process_left_is_removed(host: HubServer, fetcher: Fetcher, tmp_path: Path) -> None:
    file, scratch = locked(fetcher, host), tmp_path / "scratch"
    killed_while_staging(file, scratch, "in the middle")
    with fetcher.stage(file, scratch) as staged:
        assert [path.name for path in scratch.iterdir()] == [staged.path.name]
        assert staged.path.read_bytes() == DATA


def test_a_damaged_copy_is_fetched_anew(host: HubServer, fetcher: Fetcher, tmp_path: Path) -> None:
    file, scratch = locked(fetcher, host), tmp_path / "scratch"
    killed_while_staging(file, scratch, "at the end")
    (copy,) = scratch.iterdir()
    copy.write_bytes(DATA[:-1] + b"x")
    with fetcher.stage(file, scratch) as staged:
        assert staged.path.read_bytes() == DATA


def test_a_copy_of_an_earlier_version_is_not_taken_for_the_new_one(
    host: HubServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    """Same URL, same size: only the lock's etag tells them apart."""
    file, scratch = locked(fetcher, host), tmp_path / "scratch"
    killed_while_staging(file, scratch, "at the end")
    changed = DATA[:-7] + b"another"
    (tmp_path / "files" / NAME).write_bytes(changed)
    with fetcher.stage(locked(fetcher, host), scratch) as staged:
        assert staged.path.read_bytes() == changed


def test_a_copy_that_is_in_use_is_left_alone(host: HubServer, fetcher: Fetcher, tmp_path: Path) -> None:
    file, scratch = locked(fetcher, host), tmp_path / "scratch"
    with fetcher.stage(file, scratch) as ours:

        def stage_too() -> None:
            with fetcher.stage(file, scratch) as theirs:
                assert theirs.path != ours.path

        thread = threading.Thread(target=stage_too)
        thread.start()
        thread.join()
        assert ours.path.read_bytes() == DATA


# -- read at random


def parquet(rows: int = 3000) -> bytes:
    file = io.BytesIO()
    texts = [random.Random(n).randbytes(500).hex() for n in range(rows)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=rows // 3, compression="none", use_dictionary=False)
    return file.getvalue()


def test_a_remote_parquet_file_is_read_at_random_without_reading_it_all(
    host: HubServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    data = parquet()
    (tmp_path / "files" / NAME).write_bytes(data * 1)
    file = locked(fetcher, host)
    with fetcher.open(file) as opened:
        table = pq.ParquetFile(opened).read_row_group(2)
    assert table.equals(pq.ParquetFile(io.BytesIO(data)).read_row_group(2))
    assert {line.range is None for line in host.requests} == {False}


def test_every_range_comes_through_breaks(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults += [Fault("GET", Status(503)), Fault("GET", EndEarly(10)), Fault("GET", Reset())]
    with fetcher.open(file) as opened:
        opened.seek(1_000_000)
        assert opened.read(100) == DATA[1_000_000:1_000_100]
        opened.seek(-50, io.SEEK_END)
        assert (opened.read(), opened.read()) == (DATA[-50:], b"")


def test_a_range_of_a_changed_file_is_refused(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", Replace(DATA[:-7] + b"another"), times=FOREVER))
    with fetcher.open(file) as opened, pytest.raises(InputChanged):
        opened.read(10)


def test_a_host_without_ranges_is_still_read_right(host: HubServer, fetcher: Fetcher) -> None:
    file = locked(fetcher, host)
    host.faults.append(Fault("GET", IgnoreRange(), times=FOREVER))
    with fetcher.open(file) as opened:
        opened.seek(1_000_000)
        assert opened.read(100) == DATA[1_000_000:1_000_100]


def test_a_file_of_unknown_size_cannot_be_read_at_random(fetcher: Fetcher) -> None:
    with pytest.raises(SourceRefused, match="does not tell its size"):
        fetcher.open(LockedFile("books", NAME, f"https://host/{NAME}", Facts(None)))


# -- on a disk


@pytest.fixture
def local(tmp_path: Path, fetcher: Fetcher) -> LockedFile:
    (tmp_path / NAME).write_bytes(DATA)
    ((path, facts),) = fetcher.matches(str(tmp_path), NAME)
    return LockedFile("books", path, str(tmp_path / path), facts)


WAYS: dict[str, Callable[[Fetcher, LockedFile], bytes]] = {
    "stream": read,
    "stage": lambda fetcher, file: fetcher.stage(file, Path("/nonexistent")).path.read_bytes(),
    "open": lambda fetcher, file: fetcher.open(file).read(),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[Fetcher, LockedFile], bytes]:
    return WAYS[request.param]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_file_is_read_where_it_lies(prefix: str, local: LockedFile, fetcher: Fetcher) -> None:
    file = LockedFile(local.source, local.path, prefix + local.url, local.facts)
    assert read(fetcher, file) == DATA


def test_staging_a_local_file_leaves_it_in_place(local: LockedFile, fetcher: Fetcher, tmp_path: Path) -> None:
    with fetcher.stage(local, tmp_path / "scratch") as staged:
        assert (staged.path, staged.sha256) == (Path(local.url), SHA256)
    assert Path(local.url).read_bytes() == DATA


def test_a_missing_local_file_is_named_at_once(
    way: Callable[[Fetcher, LockedFile], bytes], local: LockedFile, fetcher: Fetcher
) -> None:
    Path(local.url).unlink()
    with pytest.raises(SourceUnavailable, match=f"{local.url}: not available now .no such file"):
        way(fetcher, local)


@pytest.mark.parametrize(
    ("content", "field"), [(DATA[:-7] + b"another", "etag"), (DATA[:-1], "size"), (DATA + b"!", "size")]
)
def test_a_local_file_that_changed_since_the_lock_is_named_at_once(
    way: Callable[[Fetcher, LockedFile], bytes], content: bytes, field: str, local: LockedFile, fetcher: Fetcher
) -> None:
    Path(local.url).write_bytes(content)
    began = time.monotonic()
    with pytest.raises(InputChanged) as caught:
        way(fetcher, local)
    assert (caught.value.field, time.monotonic() - began < 2) == (field, True)


@pytest.mark.parametrize("content", [DATA[:-1], DATA + b"!"])
def test_a_local_file_of_another_size_is_named_at_once_where_its_sha256_is_locked_too(
    way: Callable[[Fetcher, LockedFile], bytes], content: bytes, local: LockedFile, fetcher: Fetcher
) -> None:
    file = LockedFile(local.source, local.path, local.url, local.facts._replace(sha256=SHA256))
    Path(local.url).write_bytes(content)
    with pytest.raises(InputChanged, match="size is"):
        way(fetcher, file)


def test_a_local_file_with_its_locked_sha256_may_have_been_touched(local: LockedFile, fetcher: Fetcher) -> None:
    file = LockedFile(local.source, local.path, local.url, local.facts._replace(sha256=SHA256))
    os.utime(local.url, (1, 1))
    assert read(fetcher, file) == DATA


@pytest.mark.parametrize("how", ["stream", "stage"])
def test_a_local_file_with_other_bytes_than_its_locked_sha256_is_corrupt(
    how: str, local: LockedFile, fetcher: Fetcher
) -> None:
    file = LockedFile(local.source, local.path, local.url, local.facts._replace(sha256=SHA256))
    Path(local.url).write_bytes(DATA[:-7] + b"another")
    with pytest.raises(CorruptInput, match="the lock says"):
        WAYS[how](fetcher, file)


def test_a_file_that_we_may_not_read_is_the_users_matter_and_not_tried_again(
    fetcher: Fetcher, retries: Retries
) -> None:
    def forbidden() -> bytes:
        raise PermissionError(13, "Permission denied")  # root, who runs these tests, may read everything

    with pytest.raises(UserError, match=r"not allowed to read it \(Permission denied\)"):
        fetcher.persist("/root/x", forbidden)
    assert retries == []
