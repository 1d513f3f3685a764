"""What tests share: a real S3 server, a real tokenizer with its certificate, a small real dataset.

Whatever takes seconds to make is made once a session, also when pytest-xdist runs it in several processes.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import s3fs

from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.dataset_build.driver import run_here
from tests import interpreter, reach
from tests.building import build, prepared, tiny_inputs
from tests.corpora import TOKENIZER
from tests.servers.proxy import FlakyProxy
from tests.servers.seaweed import SeaweedServer
from tests.sharing import made_once, shared_folder

# A process reads it once, at its first Ray: a test that starts one with tokens leaves the next one's actors refused.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# No deadline: a test that times itself fails on a busy machine and says nothing of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.register_profile("quick", max_examples=20, deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes get their argument's name for an id. Their content would be one, and a compressed file holds the time
    at which it was made: two workers of pytest-xdist then collect different tests, and none runs."""
    return argname if isinstance(val, bytes) else None


#: Fixtures below which whole datasets are built.
BUILDS = {"certificate"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks `process` what starts one, and `slow` all that `make quick` leaves out: that, whole builds, and
    what says so itself. What is `costly` is `long`, too."""
    for item in items:
        if item.get_closest_marker("costly"):
            item.add_marker("long")
        if reach.starts_processes(item):
            item.add_marker("process")
        if item.get_closest_marker("process") or BUILDS & set(item.fixturenames):  # type: ignore[attr-defined]
            item.add_marker("slow")


if interpreter.needed():
    interpreter.import_interpreted("triton")  # before a test's file imports what imports it


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a host keeps for all its processes is the session's own: nothing that an earlier one left is believed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BAMBA_CACHE", str(shared_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(scope="session")
def new_processes() -> reach.NewProcesses:
    return reach.NewProcesses()


@pytest.fixture(autouse=True)
def starts_no_process(request: pytest.FixtureRequest, new_processes: reach.NewProcesses) -> Iterator[None]:
    """In `make quick` a test that starts a process fails, and is to be marked `process`."""
    new_processes.forget()
    yield
    if new_processes.first and "not slow" in request.config.option.markexpr:
        pytest.fail(f"not marked `process`, but it started one: {new_processes.first}")


@pytest.fixture(scope="session")
def s3() -> Iterator[SeaweedServer]:
    """A real S3 server; through the environment s3fs, pyarrow and Polars reach it, in child processes too."""
    with SeaweedServer() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.env().items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3: SeaweedServer) -> str:
    """The URL of a new, empty bucket."""
    return f"s3://{s3.make_bucket()}"


@pytest.fixture
def flaky(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """A proxy before the S3 server that loses what it is told to lose. Stores opened in the test go through it, and
    the libraries below us try once, so that it is our own retries that are tested."""
    with FlakyProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The one that ships with us."""
    return Tokenizer(TOKENIZER.read_bytes())


@pytest.fixture(scope="session")
def certificate(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of gigatoken for `tokenizer`: earned once a session, because that takes seconds."""

    def certify(path: Path) -> None:
        path.write_text(json.dumps(choose(tokenizer, "gigatoken")[1].to_json()))

    return Certificate(**json.loads(made_once(tmp_path_factory, "certificate.json", certify).read_text()))


@pytest.fixture(scope="session")
def demo(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo dataset on disk, published as version 1. To be read only."""
    return made_once(tmp_path_factory, "demo", lambda path: build(path, certificate))


@pytest.fixture(scope="session")
def tiny(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller dataset, with bad records too (tests.building.tiny_inputs): the folder `dataset`, beside its recipe
    and inputs. To be read only."""

    def make(folder: Path) -> None:
        build(folder / "dataset", certificate, str(tiny_inputs(folder)))

    return made_once(tmp_path_factory, "tiny", make) / "dataset"


@pytest.fixture(scope="session")
def staged(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe, a build of it (`quiet`) and one that has run its units but not published (`out`).
    To be read only."""

    def make(folder: Path) -> None:
        recipe = str(tiny_inputs(folder))
        build(folder / "quiet", certificate, recipe)
        assert run_here(prepared(folder / "out", certificate, recipe), Fetcher()) == []

    return made_once(tmp_path_factory, "staged", make)


@pytest.fixture
def tiny_copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset, inputs and all, that may be damaged."""
    return Path(shutil.copytree(tiny.parent, tmp_path / "tiny")) / "dataset"
