"""Builds hold the fence together, a sweep alone; who was silent for too long is told so, and nobody waits for ever."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bamba_data.errors import UserError
from bamba_data.format import fence
from bamba_data.format.fence import FenceLost, exclusive, shared
from bamba_data.format.layout import LEASES
from bamba_data.storage.store import Store, open_store
from tests.running import wait_for
from tests.servers.faults import FOREVER, Fault, Status
from tests.servers.proxy import FlakyProxy

HOLDER = """
import sys, time
from bamba_data.format import fence
from bamba_data.storage.store import open_store
fence.LIVES_SECONDS = fence.SWEEP_LIVES_SECONDS = float(sys.argv[3])
with getattr(fence, sys.argv[2])(open_store(sys.argv[1])) as held:
    print("held", flush=True)
    for line in sys.stdin:
        try:
            held.check()
            print("ours", flush=True)
        except fence.FenceLost as lost:
            print(lost, flush=True)
"""


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "store" if request.param == "disk" else request.getfixturevalue("bucket"))


class Holder:
    """Another process that holds the fence of a store."""

    def __init__(self, store: Store, kind: str, lives_seconds: float) -> None:
        command = [sys.executable, "-c", HOLDER, store.url, kind, str(lives_seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.said() == "held"

    def said(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def asks(self) -> str:
        assert self.process.stdin
        self.process.stdin.write("ours?\n")
        self.process.stdin.flush()
        return self.said()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    made: list[Holder] = []
    yield made
    for one in made:
        one.close()


def leases(store: Store) -> list[str]:
    return sorted(entry.path for entry in store.list(LEASES))


def test_builds_share_it_and_nothing_is_left_when_they_are_done(store: Store) -> None:
    with shared(store) as one, shared(store) as other:
        one.check()
        other.check()
        assert len(leases(store)) == 2
    assert leases(store) == []


def test_a_sweep_refuses_while_a_build_or_another_sweep_has_it(store: Store) -> None:
    with shared(store, "abc"), pytest.raises(UserError, match=r"a build is running .*abc\.json"), exclusive(store):
        raise AssertionError
    with exclusive(store), pytest.raises(UserError, match="another sweep is running"), exclusive(store):
        raise AssertionError
    assert leases(store) == []


def test_a_build_waits_for_a_sweep_says_so_once_and_leaves_no_lease_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "POLL_SECONDS", 0.05)
    said: list[str] = []
    held = threading.Event()

    def build() -> None:
        with shared(store, say=said.append):
            held.set()

    with exclusive(store) as sweep:
        thread = threading.Thread(target=build)
        thread.start()
        wait_for(lambda: said, what="a word")
        assert not held.wait(0.5)
        for _ in range(10):  # the build that asks again and again takes nothing from the sweep
            sweep.check()
    thread.join(30)
    assert held.is_set() and len(said) == 1 and "waiting for a sweep" in said[0]


def test_a_sweep_that_is_refused_again_and_again_takes_nothing_from_a_build(store: Store) -> None:
    done, refused = threading.Event(), []

    def sweeps() -> None:
        while not done.is_set():
            with contextlib.suppress(UserError), exclusive(store):
                raise AssertionError
            refused.append(1)

    with shared(store) as build:
        thread = threading.Thread(target=sweeps)
        thread.start()
        wait_for(lambda: refused, what="a refusal")
        for _ in range(10):
            build.check()
        done.set()
        thread.join(30)
    assert leases(store) == []


def test_of_a_build_and_a_sweep_that_come_at_once_never_both_have_it(store: Store) -> None:
    """Many times over, from two threads: the sweep may be refused, but it never works beside a build."""
    inside: set[str] = set()
    together: list[set[str]] = []
    swept = 0

    def builds() -> None:
        for _ in range(40):
            with shared(store):
                inside.add("build")
                together.append(set(inside))
                inside.discard("build")

    thread = threading.Thread(target=builds)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fence, "POLL_SECONDS", 0.01)
        thread.start()
        while thread.is_alive():
            try:
                with exclusive(store):
                    inside.add("sweep")
                    together.append(set(inside))
                    inside.discard("sweep")
                swept += 1
            except UserError:
                continue
    thread.join()
    assert {"build", "sweep"} not in together
    assert {"build"} in together and (swept == 0 or {"sweep"} in together)


@pytest.mark.parametrize(("suspended", "other"), [("shared", "exclusive"), ("exclusive", "shared")])
def test_who_was_suspended_beyond_its_lease_is_told_that_another_passed_over_it(
    store: Store, holders: list[Holder], suspended: str, other: str
) -> None:
    lives = 4.0
    one = Holder(store, suspended, lives)
    holders.append(one)
    assert one.asks() == "ours"
    os.kill(one.process.pid, signal.SIGSTOP)
    time.sleep(lives + 2)
    two = Holder(store, other, lives)
    holders.append(two)
    two.close()
    os.kill(one.process.pid, signal.SIGCONT)
    assert "its fence was taken over" in one.asks()


def test_who_was_suspended_while_nobody_came_still_has_it(store: Store, holders: list[Holder]) -> None:
    one = Holder(store, "shared", 2.0)
    holders.append(one)
    os.kill(one.process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(one.process.pid, signal.SIGCONT)
    assert one.asks() == "ours"


def test_a_holder_that_was_killed_stands_in_the_way_for_one_life(store: Store, holders: list[Holder]) -> None:
    one = Holder(store, "shared", 900.0)
    one.close()
    with pytest.raises(UserError, match="a build is running"), exclusive(store):
        raise AssertionError
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fence, "LIVES_SECONDS", 1.0)
        time.sleep(2.1)
        with exclusive(store) as held:
            held.check()


@pytest.mark.s3
def test_a_store_that_does_not_answer_for_a_while_costs_no_fence(
    flaky: FlakyProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "LIVES_SECONDS", 6.0)  # touched each second
    monkeypatch.setattr("bamba_data.storage.store.RETRY_SECONDS", 0.0)
    near, far = open_store(bucket), open_store(bucket)
    with shared(near) as held:
        flaky.faults.append(Fault("PUT .*_bamba/leases", Status(503), times=2))
        wait_for(lambda: not flaky.faults, what="two touches that fail")
        time.sleep(5)
        with pytest.raises(UserError, match="a build is running"), exclusive(far):
            raise AssertionError
        held.check()


@pytest.mark.s3
def test_a_holder_that_the_store_shut_out_for_too_long_stops(
    flaky: FlakyProxy, bucket: str, s3: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "LIVES_SECONDS", 3.0)
    monkeypatch.setattr("bamba_data.storage.store.RETRY_SECONDS", 0.0)
    store = open_store(bucket)
    with shared(store, "abc") as held:
        flaky.faults.append(Fault("PUT .*_bamba/leases/abc.json$", Status(503), times=FOREVER))
        time.sleep(5)
        with exclusive(store):
            pass
        flaky.faults.clear()
        with pytest.raises(FenceLost, match="run the same command again"):
            held.check()
