"""A publish happens once or its publisher is told so, whatever reply is lost and whoever else publishes."""

import concurrent.futures
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bamba_data import canonical_json as canonical
from bamba_data.errors import CorruptManifest, DatasetNotFound, PublishConflict, PublishUnknown, StoreUnavailable
from bamba_data.format import manifest
from bamba_data.format import version_marks as marks
from bamba_data.format.layout import VERSIONS, manifest_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import publish, read_version, versions
from bamba_data.storage import store as stores
from bamba_data.storage.store import Store, open_store
from tests.forging import Forger
from tests.publishers import LOCK, named, until_published
from tests.servers.faults import FOREVER, Fault, LoseReply, Reset, Status
from tests.servers.proxy import FlakyProxy
from tests.servers.seaweed import SeaweedServer


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "store" if request.param == "disk" else request.getfixturevalue("bucket"))


@pytest.fixture(scope="module")
def one(tiny: Path) -> Manifest:
    return manifest.loads(canonical.dumps(Forger(tiny).manifest), "tiny")


def is_sound(store: Store, manifests: list[Manifest]) -> bool:
    """Versions without a gap, each of them whole, no dataset twice, no manifest lost."""
    numbers = versions(store)
    published = Counter(read_version(store, number).manifest for number in numbers)
    return (
        numbers == list(range(1, len(numbers) + 1))
        and set(published) <= {one.digest for one in manifests}
        and set(published.values()) <= {1}
        and all(store.read(manifest_path(one.digest)) == one.data for one in manifests)
    )


# -- alone


def test_what_is_published_is_the_newest_version(store: Store, one: Manifest) -> None:
    with pytest.raises(DatasetNotFound, match="no dataset has been published"):
        read_version(store)
    for number in (1, 2, 3):
        made = publish(store, named(one, f"d{number}"), "build", LOCK)
        assert (made.number, made.manifest) == (number, named(one, f"d{number}").digest)
        assert read_version(store) == read_version(store, number) == made
    assert versions(store) == [1, 2, 3]
    with pytest.raises(DatasetNotFound, match=r"no version 4 \(there are: 1, 2, 3\)"):
        read_version(store, 4)


def test_to_publish_the_newest_dataset_again_changes_nothing(store: Store, one: Manifest) -> None:
    first = publish(store, one, "build", LOCK)
    assert publish(store, one, "another-build", LOCK) == first
    assert versions(store) == [1]


def test_an_older_dataset_can_be_made_the_newest_again(store: Store, one: Manifest) -> None:
    other = named(one, "other")
    for made in (one, other, one):
        publish(store, made, "build", LOCK)
    assert [read_version(store, number).manifest for number in versions(store)] == [
        one.digest,
        other.digest,
        one.digest,
    ]


def test_the_manifest_is_there_before_the_version_that_names_it(
    tmp_path: Path, one: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that sees the version must find all it names: the last system call decides."""
    store, links = open_store(tmp_path), []
    link = os.link

    def watched(source: Path, target: Path) -> None:
        links.append((tmp_path / manifest_path(one.digest)).exists())
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    publish(store, one, "build", LOCK)
    assert links == [True]


# -- two at once


def test_of_two_publishers_of_a_version_one_wins_and_the_other_is_told_by_whom(store: Store, one: Manifest) -> None:
    ours, theirs = named(one, "ours"), named(one, "theirs")

    class Slow(type(store)):  # type: ignore[misc]
        """The other publisher comes between our look at the versions and our create."""

        def create(self, path: str, data: bytes) -> bool:
            publish(store, theirs, "their-build", LOCK)
            return bool(super().create(path, data))

    slow = object.__new__(Slow)
    slow.__dict__.update(store.__dict__)
    with pytest.raises(PublishConflict) as told:
        publish(slow, ours, "our-build", LOCK)
    assert (told.value.version, told.value.ours, told.value.theirs) == (1, ours.digest, theirs.digest)
    assert theirs.digest[:16] in str(told.value) and told.value.exit_code == 4
    assert is_sound(store, [ours, theirs])
    assert read_version(store).build == "their-build"
    assert publish(store, ours, "our-build", LOCK).number == 2  # as the message says


def test_two_publishers_of_one_dataset_both_succeed_with_one_version(store: Store, one: Manifest) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda build: publish(store, one, f"build-{build}", LOCK), range(8)))
    assert len(set(made)) == 1
    assert versions(store) == [1]


@pytest.mark.parametrize("writers", [8])
def test_of_many_concurrent_publishers_each_publishes_once(store: Store, one: Manifest, writers: int) -> None:
    wanted = [named(one, f"d{number}") for number in range(writers)]
    with concurrent.futures.ThreadPoolExecutor(writers) as pool:
        made = list(pool.map(lambda one: until_published(store.url, one, one.name)[0], wanted))
    assert sorted(version.number for version in made) == list(range(1, writers + 1))
    assert is_sound(store, wanted)
    for version, one in zip(made, wanted, strict=True):
        assert read_version(store, version.number) == version
        assert (version.manifest, version.build) == (one.digest, one.name)


# -- lost replies

CREATE = f"^PUT .*{VERSIONS}/"


@pytest.mark.s3
@pytest.mark.parametrize("retry_seconds", [0.0, 60.0])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("action", [LoseReply(), Reset(), Status(500), Status(503)])
def test_a_publish_whose_reply_was_lost_is_not_published_twice(
    flaky: FlakyProxy,
    bucket: str,
    one: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    action: LoseReply | Reset | Status,
    times: int,
    retry_seconds: float,
) -> None:
    """After its effect (LoseReply) or before it; found out by a retry of the store, or by publish itself."""
    monkeypatch.setattr(stores, "RETRY_SECONDS", retry_seconds)
    store = open_store(bucket)
    flaky.faults.append(Fault(CREATE, action, times=times))
    made = publish(store, one, "build", LOCK)
    assert made.number == 1
    assert is_sound(store, [one]) and versions(store) == [1]
    assert read_version(store) == made
    landed = [line.store_status for line in flaky.requests if VERSIONS in line.path and line.method == "PUT"]
    assert landed.count(200) == 1


@pytest.mark.s3
def test_a_lost_race_is_a_conflict_even_if_its_reply_was_lost(
    flaky: FlakyProxy, bucket: str, one: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRY_SECONDS", 0.0)
    store, ours, theirs = open_store(bucket), named(one, "ours"), named(one, "theirs")
    known = marks.known(store)
    publish(store, theirs, "theirs", LOCK)
    monkeypatch.setattr("bamba_data.format.version_marks.known", lambda store: known)  # an older look at the store
    flaky.faults.append(Fault(CREATE, LoseReply()))
    with pytest.raises(PublishConflict):
        publish(store, ours, "ours", LOCK)
    monkeypatch.undo()


@pytest.mark.s3
@pytest.mark.parametrize("landed", [True, False])
def test_a_store_that_goes_down_leaves_a_doubt_that_a_second_run_resolves(
    flaky: FlakyProxy, bucket: str, one: Manifest, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    monkeypatch.setattr(stores, "RETRY_SECONDS", 0.0)
    store = open_store(bucket)
    flaky.faults.append(Fault(CREATE, LoseReply() if landed else Reset()))
    flaky.faults.append(Fault(f"{VERSIONS}/", Status(503), times=FOREVER))
    with pytest.raises(PublishUnknown, match=r"may or may not be published.*nothing was deleted; run again") as doubt:
        publish(store, one, "build", LOCK)
    assert doubt.value.exit_code == 4
    flaky.faults.clear()
    assert versions(store) == ([1] if landed else [])
    assert store.read(manifest_path(one.digest)) == one.data
    assert publish(store, one, "build", LOCK).number == 1
    assert versions(store) == [1]
    assert not [line for line in flaky.requests if line.method == "DELETE"]


@pytest.mark.s3
def test_a_store_that_is_down_from_the_start_is_unavailable(
    flaky: FlakyProxy, bucket: str, one: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRY_SECONDS", 0.0)
    flaky.faults.append(Fault(".", Status(503), times=FOREVER))
    with pytest.raises(StoreUnavailable):
        publish(open_store(bucket), one, "build", LOCK)


@pytest.mark.s3
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.long) for n in range(6, 300))])
def test_with_a_third_of_all_replies_lost_every_build_is_published_exactly_once(
    flaky: FlakyProxy, bucket: str, one: Manifest, seed: int
) -> None:
    flaky.faults._random.seed(seed)
    wanted = [named(one, f"d{number}") for number in range(6)]
    flaky.faults += [
        Fault(".", LoseReply(), times=FOREVER, probability=0.25),
        Fault(".", Reset(), times=FOREVER, probability=0.15),
    ]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda one: until_published(bucket, one, one.name)[0], wanted))
    flaky.faults.clear()
    lost = [line.client_status for line in flaky.requests].count(None)
    assert lost > 3
    store = open_store(bucket)
    assert is_sound(store, wanted)
    assert sorted(version.number for version in made) == versions(store) == list(range(1, 7))
    for version, one in zip(made, wanted, strict=True):
        assert read_version(store, version.number) == version and version.manifest == one.digest
    assert not [line for line in flaky.requests if line.method == "DELETE"]


PUBLISHER = """
import sys
from pathlib import Path
from bamba_data.format import manifest
from tests.publishers import named, until_published
one = manifest.loads(Path(sys.argv[2]).read_bytes(), "tiny")
for name in sys.argv[3:]:
    version, tries = until_published(sys.argv[1], named(one, name), name)
    print(name, version.number, tries)
"""


@pytest.mark.s3
def test_processes_that_publish_through_lost_replies_publish_once_each(
    s3: SeaweedServer, bucket: str, one: Manifest, tmp_path: Path
) -> None:
    """With the retries of botocore and s3fs as they are."""
    (tmp_path / "manifest.json").write_bytes(one.data)
    with FlakyProxy(s3.endpoint, seed=11) as proxy:
        proxy.faults.append(Fault(f"^(PUT|GET|HEAD) .*{VERSIONS}", LoseReply(), times=FOREVER, probability=0.3))
        command = [sys.executable, "-c", PUBLISHER, bucket, str(tmp_path / "manifest.json")]
        children = [
            subprocess.Popen(
                [*command, *(f"d{child}-{number}" for number in range(2))],
                env=os.environ | {"AWS_ENDPOINT_URL": proxy.url},
                stdout=subprocess.PIPE,
                text=True,
            )
            for child in range(3)
        ]
        printed = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    told = {line.split()[0]: int(line.split()[1]) for text in printed for line in text.splitlines()}
    store, wanted = open_store(bucket), [named(one, name) for name in told]
    assert sorted(told.values()) == versions(store) == list(range(1, 7))
    assert is_sound(store, wanted)
    assert all(read_version(store, told[one.name]).manifest == one.digest for one in wanted)


# -- hostile versions


@pytest.mark.parametrize(
    "change",
    [
        {"format": "bamba-version/2"},
        {"version": 2},
        {"version": True},
        {"manifest": "../../etc/passwd"},
        {"manifest": None},
        {"lock": "../../etc/passwd"},
        {"published_at": 5},
        {"build": "other"},
        {"sha256": "0" * 64},
        {"more": 1},
    ],
)
def test_a_version_that_is_not_one_is_refused(tiny_copy: Path, change: dict[str, object]) -> None:
    path = tiny_copy / VERSIONS / "000001.json"
    path.write_bytes(canonical.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(CorruptManifest, match=r"versions/000001\.json"):
        read_version(open_store(tiny_copy))


def test_every_flipped_bit_of_a_version_is_refused(tiny_copy: Path) -> None:
    path = tiny_copy / VERSIONS / "000001.json"
    whole = path.read_bytes()
    store = open_store(tiny_copy)
    for bit in range(0, 8 * len(whole), 5):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(CorruptManifest):
            read_version(store)


def test_other_objects_among_the_versions_are_no_versions(tiny_copy: Path) -> None:
    for name in ("000002.json.part-abc", "2.json", "000002.txt", "x/000002.json", "0000002.json", "-00002.json"):
        path = tiny_copy / VERSIONS / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"{}")
    assert versions(open_store(tiny_copy)) == [1]
