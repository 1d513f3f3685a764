"""A version that is published while something is swept is complete, whatever comes first and whoever is suspended."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import CorruptManifest
from bamba_data.format import fence
from bamba_data.format import version_marks as marks
from bamba_data.inspect.garbage import find, remove
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build import driver, frozen_lock
from pipelines.dataset_build.driver import run_here
from tests.building import prepared

ROOT = Path(__file__).parents[2]


class Worker:
    def __init__(self, kind: str, recipe: Path, certificate: Path, lives_seconds: float) -> None:
        command = [sys.executable, "-m", "tests.faults.sweeping", kind, str(recipe), str(certificate)]
        self.process = subprocess.Popen(
            [*command, str(lives_seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.answer() == "ready"

    def begin(self, url: str, after_seconds: float) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{url} {after_seconds}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        yield
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, staged: Path, certificate: Certificate, tmp_path: Path
) -> Iterator[list[Worker]]:
    """A builder and a sweeper; `request.param` is how long their leases live."""
    if request.node.callspec.params["where"] == "s3":
        request.getfixturevalue("s3")  # its environment is theirs
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(asdict(certificate)))
    made = [Worker(kind, staged / "tiny.yaml", path, request.param) for kind in ("build", "sweep")]
    yield made
    for one in made:
        one.end()


def abandoned(staged: Path, url: str) -> None:
    """A place where a build has run all its units and was given up."""
    store = open_store(url)
    for path in (staged / "out").rglob("*"):
        if path.is_file():
            store.put(path.relative_to(staged / "out").as_posix(), path.read_bytes())


def check_complete(url: str, said: str, wanted: str) -> None:
    """It was published in the end, and all that is offered is whole."""
    assert said.split(" ")[0] == wanted, said
    for number in marks.known(open_store(url)).offered:
        assert verify(url, number, full=True).faults == []
    assert [entry.path for entry in find(url, grace_seconds=0).orphans if ".aside-" not in entry.path] == []


@pytest.fixture
def quiet(staged: Path) -> str:
    return verify(str(staged / "quiet")).dataset


PLACES = [("disk", 14), pytest.param("s3", 6, marks=[pytest.mark.s3, pytest.mark.costly])]


def place(request: pytest.FixtureRequest, where: str, tmp_path: Path) -> str:
    return str(tmp_path / "places") if where == "disk" else str(request.getfixturevalue("bucket"))


@pytest.mark.parametrize("pair", [900.0], indirect=True)
@pytest.mark.parametrize(("where", "rounds"), PLACES)
def test_a_sweep_beside_a_build_that_goes_on_with_old_work(
    request: pytest.FixtureRequest,
    where: str,
    rounds: int,
    staged: Path,
    quiet: str,
    tmp_path: Path,
    pair: list[Worker],
) -> None:
    builder, sweeper = pair
    base, chance = place(request, where, tmp_path), random.Random(11)
    swept: list[str] = []
    for number in range(rounds):
        abandoned(staged, url := f"{base}/{number}")
        late = chance.uniform(-0.3, 0.3)
        builder.begin(url, max(0.0, late))
        sweeper.begin(url, max(0.0, -late))
        swept.append(sweeper.answer())
        check_complete(url, builder.answer(), quiet)
    assert all(said.startswith(("removed", "refused")) for said in swept)


@pytest.mark.costly
@pytest.mark.parametrize("pair", [2.0], indirect=True)
@pytest.mark.parametrize("sleeper", ["build", "sweep"])
@pytest.mark.parametrize(("where", "rounds"), [("disk", 5), pytest.param("s3", 3, marks=pytest.mark.s3)])
def test_one_of_them_is_suspended_beyond_its_lease_and_wakes_up(
    request: pytest.FixtureRequest,
    where: str,
    rounds: int,
    sleeper: str,
    staged: Path,
    quiet: str,
    tmp_path: Path,
    pair: list[Worker],
) -> None:
    builder, sweeper = pair
    asleep, awake = (builder, sweeper) if sleeper == "build" else (sweeper, builder)
    base, chance = place(request, where, tmp_path), random.Random(12)
    for number in range(rounds):
        abandoned(staged, url := f"{base}/{number}")
        asleep.begin(url, 0)
        time.sleep(chance.uniform(0.02, 0.6))
        with asleep.suspended():
            time.sleep(3.5)
            awake.begin(url, 0)
            said = awake.answer()
        said_late = asleep.answer()
        check_complete(url, said_late if sleeper == "build" else said, quiet)
    shutil.rmtree(base, ignore_errors=True)


def test_what_was_swept_while_a_build_looked_is_no_damage_and_the_build_runs_again(
    staged: Path, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep comes between the look at the fence and the look at what was assembled, to a build that is silent."""
    monkeypatch.setattr(fence, "LIVES_SECONDS", 1.0)
    abandoned(staged, url := str(tmp_path / "place"))
    looked = driver.check_unpublished
    with pytest.raises(fence.FenceLost, match="run the same command again"), fence.shared(open_store(url)) as held:
        ready = prepared(url, certificate, str(staged / "tiny.yaml"))
        assert run_here(ready, Fetcher()) == []

        def swept_first(*given: Any) -> None:
            held._ended.set()  # suspended
            time.sleep(1.5)
            assert remove(url, find(url, grace_seconds=0)) > 0
            looked(*given)

        monkeypatch.setattr(driver, "check_unpublished", swept_first)
        driver.finish(ready, held)
    assert marks.known(open_store(url)).offered == []


def test_a_lock_that_was_swept_while_a_build_slept_is_no_damage_and_the_build_runs_again(
    staged: Path, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep comes between the look at the lock's name and the look at the lock."""
    monkeypatch.setattr(fence, "LIVES_SECONDS", 1.0)
    abandoned(staged, url := str(tmp_path / "place"))
    read = frozen_lock.read_named
    store = open_store(url)
    with pytest.raises(fence.FenceLost, match="run the same command again") as lost, fence.shared(store) as held:

        def swept_first(*given: Any) -> bytes:
            held._ended.set()  # suspended
            time.sleep(1.5)
            assert remove(url, find(url, grace_seconds=0)) > 0
            return read(*given)

        monkeypatch.setattr(frozen_lock, "read_named", swept_first)
        prepared(url, certificate, str(staged / "tiny.yaml"))
    assert isinstance(lost.value.__cause__, CorruptManifest)


def test_damage_within_a_fence_that_was_kept_stays_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptManifest, match="is missing"), fence.shared(open_store(tmp_path)):
        raise CorruptManifest("a table", "is missing")
