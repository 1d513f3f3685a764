"""Every client reaches the real store by its environment alone, and the proxy loses only what it should."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from . import seaweed
from .faults import FOREVER, Fault, LoseReply, Reset, Stall, Status
from .proxy import FlakyProxy
from .seaweed import SeaweedServer

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def store() -> Iterator[SeaweedServer]:
    with SeaweedServer() as server:
        yield server


@pytest.fixture
def bucket(store: SeaweedServer) -> str:
    return store.make_bucket()


@pytest.fixture
def proxy(store: SeaweedServer) -> Iterator[FlakyProxy]:
    with FlakyProxy(store.endpoint) as server:
        yield server


# -- the store --


def test_s3fs_puts_gets_and_lists(store: SeaweedServer, bucket: str) -> None:
    s3 = store.filesystem()
    s3.pipe(f"{bucket}/shard", b"tokens")
    assert s3.cat(f"{bucket}/shard") == b"tokens"
    assert s3.cat_file(f"{bucket}/shard", start=2, end=4) == b"ke"
    assert s3.ls(bucket) == [f"{bucket}/shard"]


def test_create_refuses_an_existing_key(store: SeaweedServer, bucket: str) -> None:
    s3 = store.filesystem()
    s3.pipe(f"{bucket}/manifest", b"first", mode="create")
    with pytest.raises(OSError, match="pre-conditions"):
        s3.pipe(f"{bucket}/manifest", b"second", mode="create")
    assert s3.cat(f"{bucket}/manifest") == b"first"


def test_a_wrong_secret_is_refused(store: SeaweedServer, bucket: str) -> None:
    other = SeaweedServer()
    other.secret_key = "guessed"
    with pytest.raises(PermissionError):
        other.filesystem(store.endpoint).ls(bucket)


def test_many_buckets_can_be_written(store: SeaweedServer) -> None:
    s3 = store.filesystem()
    for _ in range(8):
        s3.pipe(f"{store.make_bucket()}/key", b"value")


def test_every_client_needs_the_environment_only(
    store: SeaweedServer, proxy: FlakyProxy, bucket: str, tmp_path: Path
) -> None:
    script = f"""
import botocore.session, polars, pyarrow, pyarrow.fs, pyarrow.parquet, s3fs
url = "s3://{bucket}/table.parquet"
filesystem, path = pyarrow.fs.FileSystem.from_uri(url)
pyarrow.parquet.write_table(pyarrow.table({{"a": [1, 2, 3]}}), path, filesystem=filesystem)
assert polars.scan_parquet(url).collect().height == 3
assert s3fs.S3FileSystem().ls("{bucket}") == ["{bucket}/table.parquet"]
botocore.session.get_session().create_client("s3").head_object(Bucket="{bucket}", Key="table.parquet")
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = clean | {"HOME": str(tmp_path)} | store.env(proxy.url)
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {line.method for line in proxy.requests} == {"POST", "PUT", "GET", "HEAD"}


# -- its life --


def test_a_failed_start_shows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(seaweed, "free_ports", lambda count: [taken.getsockname()[1]] * count)
        with pytest.raises(RuntimeError, match="address already in use"), SeaweedServer():
            pass


def test_the_store_dies_with_killed_tests(tmp_path: Path) -> None:
    script = """
from servers.seaweed import SeaweedServer
with SeaweedServer() as store:
    print(store.endpoint)
    input()
"""
    tests = subprocess.Popen(
        [sys.executable, "-u", "-c", script],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with tests:
        assert tests.stdout is not None
        endpoint = tests.stdout.readline().strip()
        assert requests.get(endpoint, timeout=5).status_code == 403
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            requests.get(endpoint, timeout=5)
        except requests.ConnectionError:
            return
        time.sleep(0.05)
    pytest.fail("the store outlived the tests")


# -- the proxy --


def test_the_proxy_is_transparent_for_small_and_multipart_objects(
    store: SeaweedServer, proxy: FlakyProxy, bucket: str
) -> None:
    s3, data = store.filesystem(proxy.url), os.urandom(11 * 1024 * 1024)
    with s3.open(f"{bucket}/big", "wb", block_size=5 * 1024 * 1024) as file:
        file.write(data[: 6 * 1024 * 1024])
        file.write(data[6 * 1024 * 1024 :])
    assert s3.cat(f"{bucket}/big") == data == store.filesystem().cat(f"{bucket}/big")
    assert all(line.client_status == line.store_status for line in proxy.requests)


def test_a_create_whose_reply_is_lost_has_won_and_is_told_that_it_lost(
    store: SeaweedServer, proxy: FlakyProxy, bucket: str
) -> None:
    proxy.faults.append(Fault("^PUT .*/manifest$", LoseReply()))
    with pytest.raises(OSError, match="pre-conditions"):
        store.filesystem(proxy.url).pipe(f"{bucket}/manifest", b"ours", mode="create")
    assert store.filesystem().cat(f"{bucket}/manifest") == b"ours"
    assert [(line.store_status, line.client_status) for line in proxy.requests] == [(200, None), (412, 412)]


def test_only_the_nth_matching_reply_is_lost(store: SeaweedServer, proxy: FlakyProxy, bucket: str) -> None:
    proxy.faults.append(Fault("^PUT", LoseReply(), skip=1))
    s3 = store.filesystem(proxy.url)
    for key in ("a", "b", "c"):
        s3.pipe(f"{bucket}/{key}", b"x")
    puts = [(line.path[-1], line.client_status) for line in proxy.requests if line.method == "PUT"]
    assert puts == [("a", 200), ("b", None), ("b", 200), ("c", 200)]


def test_lost_replies_by_chance_still_leave_every_object(store: SeaweedServer, bucket: str) -> None:
    with FlakyProxy(store.endpoint, seed=1) as proxy:
        proxy.faults.append(Fault("^(PUT|GET)", LoseReply(), times=FOREVER, probability=0.3))
        s3 = store.filesystem(proxy.url)
        for number in range(8):
            s3.pipe(f"{bucket}/{number}", b"%d" % number)
        assert [s3.cat_file(f"{bucket}/{number}") for number in range(8)] == [b"%d" % n for n in range(8)]
        assert any(line.client_status is None for line in proxy.requests)


@pytest.mark.parametrize("action", [Status(503), Reset(), Stall(0.3)])
def test_a_request_refused_cut_or_delayed_before_the_store_is_carried_out_once(
    store: SeaweedServer, proxy: FlakyProxy, bucket: str, action: Status | Reset | Stall
) -> None:
    proxy.faults.append(Fault("^PUT", action))
    store.filesystem(proxy.url).pipe(f"{bucket}/manifest", b"ours", mode="create")
    assert store.filesystem().cat(f"{bucket}/manifest") == b"ours"
    assert [line.store_status for line in proxy.requests].count(200) == 1


def test_slow_down_is_said_as_s3_says_it(proxy: FlakyProxy) -> None:
    proxy.faults.append(Fault("^GET", Status(503, retry_after_seconds=2)))
    answer = requests.get(f"{proxy.url}/bucket/key", timeout=10)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "<Code>SlowDown</Code>" in answer.text
