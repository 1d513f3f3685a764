"""One suite for a local disk and for a real S3: whole objects or none, one winner, the store's own clock."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import s3fs
from hypothesis import given
from hypothesis import strategies as st

from bamba_data.errors import StoreUnavailable, UnsafePath, UserError
from bamba_data.storage import store as stores
from bamba_data.storage.paths import checked, distinct
from bamba_data.storage.store import LocalStore, S3Store, Store, now, open_store
from tests.servers.faults import FOREVER, Fault, LoseReply, Status
from tests.servers.proxy import FlakyProxy
from tests.servers.seaweed import SeaweedServer

UNSAFE = [
    *("", "/etc/passwd", "..", "a/../b", "a/./b", "a//b", "a/", "/", "./a", "../a"),
    *("a\\b", "..\\a", "C:/a", "c:a", "http://host/a", "s3://bucket/a", "file:///a"),
    *(
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a/\ud800",
        "con",
        "a/NUL.txt",
        "lpt1",
        "a./b",
        "a /b",
        "a|b",
        'a"b',
        "a*",
        "a?",
        "<a>",
    ),
    *("e\u0301", "x" * 1025),
]


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(tmp_path / "store")
    return open_store(f"{request.getfixturevalue('bucket')}/some/prefix")


# -- objects


def test_what_is_put_can_be_read(store: Store) -> None:
    for data in (b"", b"x", os.urandom(1 << 20)):
        store.put("folder/object", data)
        assert store.read("folder/object") == data
        with store.open("folder/object") as file:
            assert file.read() == data


def test_a_missing_object_is_a_file_not_found_error(store: Store) -> None:
    into = memoryview(bytearray(1))
    reads = (lambda path: store.read_range(path, 0, 1), lambda path: store.read_into(path, 0, into))
    for ask in (store.read, store.open, *reads):
        with pytest.raises(FileNotFoundError):
            ask("folder/object")
    assert store.stat("folder/object") is None
    store.delete("folder/object")


@pytest.mark.parametrize(
    ("start", "end", "want"),
    [(0, 3, b"012"), (4, 6, b"45"), (8, 99, b"89"), (10, 11, b""), (99, 100, b""), (5, 5, b"")],
)
def test_a_range_is_short_only_where_the_object_ends(store: Store, start: int, end: int, want: bytes) -> None:
    store.put("object", b"0123456789")
    assert store.read_range("object", start, end) == want
    place = bytearray(end - start)
    length = store.read_into("object", start, memoryview(place))
    assert place[:length] == want


def test_a_file_that_comes_in_parts_is_read_to_the_end_of_the_range() -> None:
    with Path("/proc/self/maps").open("rb", buffering=0) as file:
        assert len(file.read(9000)) < 9000, "the system gives a page of it at most"
    assert len(open_store("/proc/self").read_range("maps", 0, 9000)) == 9000


def test_a_range_of_an_empty_object_is_empty(store: Store) -> None:
    store.put("object", b"")
    assert store.read_range("object", 0, 10) == b""


def test_an_open_object_is_seekable(store: Store) -> None:
    store.put("object", bytes(range(256)))
    with store.open("object") as file:
        file.seek(-6, os.SEEK_END)
        assert file.read(2) == b"\xfa\xfb"
        file.seek(3)
        assert file.read(2) == b"\x03\x04"


def test_a_stat_tells_size_and_time_of_an_object_and_nothing_of_a_folder(store: Store) -> None:
    store.put("folder/object", b"12345")
    entry = store.stat("folder/object")
    assert entry is not None
    assert (entry.path, entry.size_bytes) == ("folder/object", 5)
    assert abs(entry.modified - time.time()) < 60
    assert store.stat("folder") is None


def test_a_deleted_object_is_gone(store: Store) -> None:
    store.put("object", b"x")
    store.delete("object")
    assert store.stat("object") is None
    assert list(store.list()) == []


def test_a_listing_has_what_lies_below_a_folder_and_nothing_beside_it(store: Store) -> None:
    for path in ("a/x", "a/b/y", "ab/z", "a.b/z", "top"):
        store.put(path, b"123")
    assert {entry.path for entry in store.list("a")} == {"a/x", "a/b/y"}
    assert {entry.path for entry in store.list()} == {"a/x", "a/b/y", "ab/z", "a.b/z", "top"}
    assert {entry.size_bytes for entry in store.list()} == {3}
    assert list(store.list("nothing/here")) == []
    assert list(store.list("top")) == []


def test_a_listing_of_a_disk_has_links_as_what_they_are_and_goes_through_none(tmp_path: Path) -> None:
    (tmp_path / "store" / "a").mkdir(parents=True)
    (tmp_path / "store" / "a" / "x").write_bytes(b"123")
    for name, target in (("folder", "a"), ("file", "a/x"), ("nowhere", "b"), ("circle", "circle")):
        (tmp_path / "store" / name).symlink_to(target)
    found = {entry.path: entry.size_bytes for entry in open_store(tmp_path / "store").list()}
    assert found == {"a/x": 3, "file": len("a/x"), "nowhere": len("b"), "circle": len("circle")}


def test_a_listing_of_more_than_a_thousand_objects_is_complete(store: Store) -> None:
    wanted = {f"many/{number:05d}" for number in range(1203)}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: store.put(path, b"x"), wanted))
    store.put("other", b"x")
    found = [entry.path for entry in store.list("many")]
    assert len(found) == 1203
    assert set(found) == wanted


def test_a_name_may_have_spaces_and_letters_of_any_script(store: Store) -> None:
    for path in ("with space/a=b", "größe/字+%20&x", "dataset=c4/00000-000-ab.parquet"):
        store.put(path, path.encode())
        assert store.read(path) == path.encode()
        assert [entry.path for entry in store.list(path.split("/")[0])] == [path]


# -- create: one winner


def test_create_writes_only_where_nothing_is(store: Store) -> None:
    assert store.create("v", b"first")
    assert not store.create("v", b"second")
    assert store.read("v") == b"first"


def test_of_sixteen_concurrent_creators_exactly_one_wins(store: Store) -> None:
    rounds = 40 if isinstance(store, LocalStore) else 3
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for number in range(rounds):
            path = f"version/{number}"
            won = list(pool.map(lambda writer, path=path: store.create(path, b"%d" % writer), range(16)))
            assert won.count(True) == 1
            assert store.read(path) == b"%d" % won.index(True)
    assert len(list(store.list())) == rounds  # and nobody left anything else


# -- writer: whole or not at all


def test_a_written_object_appears_when_its_block_ends(store: Store) -> None:
    with store.writer("object") as file:
        file.write(b"one ")
        file.write(b"two")
        file.flush()
        assert store.stat("object") is None
    assert store.read("object") == b"one two"


def test_a_large_object_can_be_streamed(store: Store) -> None:
    chunk = os.urandom(1 << 20)
    with store.writer("object") as file:
        for _ in range(36):
            file.write(chunk)
    entry = store.stat("object")
    assert entry is not None and entry.size_bytes == 36 << 20
    assert store.read_range("object", 20 << 20, 21 << 20) == chunk


@pytest.mark.parametrize("mebibytes", [0, 1, 36])
def test_a_block_that_raises_leaves_nothing(store: Store, mebibytes: int) -> None:
    with pytest.raises(ZeroDivisionError), store.writer("folder/object") as file:
        file.write(bytes(mebibytes << 20))
        raise ZeroDivisionError
    assert list(store.list()) == []


def test_a_block_that_raises_leaves_the_old_object(store: Store) -> None:
    store.put("object", b"old")
    with pytest.raises(ZeroDivisionError), store.writer("object") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert store.read("object") == b"old"


KILLED = """
import sys
from bamba_data.storage.store import open_store
store, how, data = open_store(sys.argv[1]), sys.argv[2], b"new" * (8 << 20)
store.stat("warm")
print("ready", flush=True)
if how == "put":
    store.put("object", data)
elif how == "create":
    store.create("object", data)
else:
    with store.writer("object") as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
print("done", flush=True)
"""


@pytest.mark.parametrize("how", ["put", "writer", "create"])
def test_a_writer_killed_in_the_middle_leaves_the_object_whole_or_absent(store: Store, how: str) -> None:
    whole = b"new" * (8 << 20)
    delays = [0.0, 0.01, 0.03] if isinstance(store, LocalStore) else [0.04, 0.1]
    midway = 0
    for delay in delays:
        store.delete("object")
        with _writing(store, how) as child:
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            child.wait()
            midway += child.stdout is not None and child.stdout.read() == ""
        assert store.stat("object") is None or store.read("object") == whole
        left = {entry.path for entry in store.list()} - {"object"}
        assert all(path.startswith("object.part-") for path in left)  # what a sweep removes
        assert isinstance(store, LocalStore) or not left
    assert midway  # else no delay was short enough to say anything
    assert store.create("object", b"after") or store.read("object") == whole  # nothing stands in the way


def _writing(store: Store, how: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, store.url, how], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_reader_beside_writers_sees_old_or_new_and_never_a_mixture(store: Store) -> None:
    contents = [bytes([letter]) * 300_000 for letter in b"abcd"]
    store.put("object", contents[0])
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        writes = [pool.submit(store.put, "object", data) for data in contents * 4]
        while not all(write.done() for write in writes):
            assert store.read("object") in contents


# -- its clock


def test_now_is_the_clock_of_the_store(store: Store) -> None:
    before = now(store, "_bamba/tmp")
    store.put("object", b"x")
    after = now(store, "_bamba/tmp")
    entry = store.stat("object")
    assert entry is not None
    assert before <= entry.modified <= after
    assert [entry.path for entry in store.list()] == ["object"]


def test_a_skewed_clock_of_ours_does_not_matter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    true = time.time()
    if isinstance(store, S3Store):
        now(store, "tmp")  # its requests are signed with our time, so it must be connected first
    with monkeypatch.context() as skewed:
        skewed.setattr(time, "time", lambda: true + 1e6)
        assert abs(now(store, "tmp") - true) < 60


# -- paths and URLs


@pytest.mark.parametrize("path", UNSAFE)
def test_an_unsafe_path_is_refused_before_any_operation(tmp_path: Path, path: str) -> None:
    store = open_store(tmp_path / "root" / "store")
    operations = [
        *(store.read, store.open, store.delete, store.stat),
        lambda path: store.read_range(path, 0, 1),
        lambda path: store.put(path, b"x"),
        lambda path: store.create(path, b"x"),
        lambda path: store.writer(path).__enter__(),
    ]
    for operation in operations:
        with pytest.raises(UnsafePath):
            operation(path)
    assert not (tmp_path / "root").exists()


@pytest.mark.s3
def test_an_unsafe_path_is_refused_on_s3_before_any_request(flaky: FlakyProxy) -> None:
    store = open_store("s3://bucket/prefix")
    for path in UNSAFE:
        with pytest.raises(UnsafePath):
            store.put(path, b"x")
    assert flaky.requests == []


@given(st.text(max_size=40))
def test_a_path_that_is_accepted_stays_below_its_root_under_all_rules(path: str) -> None:
    import ntpath
    import posixpath

    try:
        checked(path)
    except UnsafePath as error:
        str(error).encode("utf-8", "strict")  # and can be printed
        return
    for rules, root in ((posixpath, "/root"), (ntpath, "C:\\root")):
        joined = rules.normpath(rules.join(root, path))
        assert rules.commonpath([root, joined]) == root
        assert joined != root


def test_two_paths_that_look_alike_are_refused() -> None:
    distinct(["a/b", "a/c", "b"])
    for other in ("A/b", "a/B"):
        with pytest.raises(UnsafePath, match="looks like"):
            distinct(["a/b", "c", other])


def test_a_symbolic_link_that_leads_out_is_refused_and_one_that_stays_inside_is_not(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = open_store(tmp_path / "store")
    store.put("inside/object", b"x")
    (tmp_path / "store" / "link").symlink_to(outside)
    (tmp_path / "store" / "file").symlink_to(outside / "secret")
    (tmp_path / "store" / "alias").symlink_to("inside")
    for path in ("link/secret", "file", "link/new"):
        for operation in (store.read, store.stat, lambda path: store.put(path, b"x"), store.delete):
            with pytest.raises(UnsafePath, match="symbolic link"):
                operation(path)
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert store.read("alias/object") == b"x"
    (tmp_path / "root-link").symlink_to(tmp_path / "store")
    assert open_store(tmp_path / "root-link").read("inside/object") == b"x"


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/x", "s3://key@bucket/x", "https://me:pw@host/x", "file://u:p@/x"]
)
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(UserError, match="credentials") as refused:
        open_store(url)
    assert "secret" not in str(refused.value) and "pw" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "https://host/x", "memory://x", "s3:bucket", "s3://", "s3://b?x=1", "s3://[b"]
)
def test_a_url_that_cannot_be_a_store_is_refused(url: str) -> None:
    with pytest.raises(UserError):
        open_store(url)


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    open_store(f"{(tmp_path / 'a b').as_uri()}").put("x", b"1")
    assert (tmp_path / "a b" / "x").read_bytes() == b"1"


# -- a disk that crashes, a store that fails


def test_a_local_object_is_flushed_before_it_is_visible_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process does not show whether a power loss would lose the object; the order of system calls does."""
    store, seen = open_store(tmp_path), []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink().name[:6], (tmp_path / "folder/object").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    store.put("folder/object", b"x")
    assert seen == [("object", False), ("folder", True)]
    seen.clear()
    (tmp_path / "folder/object").unlink()
    assert store.create("folder/object", b"x")
    assert seen == [("object", False), ("folder", True)]


@pytest.mark.s3
def test_every_verb_survives_refusals_and_lost_replies(flaky: FlakyProxy, bucket: str) -> None:
    store = open_store(bucket)
    for action in (Status(500), Status(503), Status(409, code="ConditionalRequestConflict"), LoseReply()):
        flaky.faults.append(Fault(".", action, times=2))
        store.put("a", b"x")
        flaky.faults.append(Fault(".", action))
        assert store.read("a") == b"x"
        flaky.faults.append(Fault(".", action))
        assert [entry.path for entry in store.list()] == ["a"]
        flaky.faults.append(Fault(".", action))
        store.delete("a")
        assert list(flaky.faults) == []


@pytest.mark.s3
def test_a_store_that_stays_down_is_unavailable_and_says_to_run_again(
    flaky: FlakyProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRY_SECONDS", 0.0)
    store = open_store(bucket)
    flaky.faults.append(Fault(".", Status(500), times=FOREVER))
    for verb in (lambda: store.put("a", b""), lambda: list(store.list()), lambda: store.create("a", b"")):
        with pytest.raises(StoreUnavailable, match="run the same command again") as down:
            verb()
        assert down.value.exit_code == 4


@pytest.mark.s3
def test_wrong_credentials_are_the_users_to_mend(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    s3fs.S3FileSystem.clear_instance_cache()
    store = open_store("s3://bucket/x")
    for verb in (lambda: store.read("a"), lambda: list(store.list()), lambda: store.put("a", b"")):
        with pytest.raises(UserError, match="AWS_") as refused:
            verb()
        assert "a-wrong-secret" not in str(refused.value)
    s3fs.S3FileSystem.clear_instance_cache()
