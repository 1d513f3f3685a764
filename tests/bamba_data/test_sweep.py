"""A sweep removes what nothing needs, after its grace, by the store's clock; and never anything else."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bamba_data.errors import DatasetNotFound, UnknownRecord, UserError
from bamba_data.format import fence
from bamba_data.format.fence import shared
from bamba_data.format.layout import LEASES
from bamba_data.format.versions import versions
from bamba_data.inspect.garbage import DEFAULT_GRACE_SECONDS, Sweep, find, remove
from bamba_data.inspect.verify import verify
from bamba_data.records import seal, unseal
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.driver import finish, run_here
from tests.building import build, prepared
from tests.corpora import records, write_jsonl

DAY = 86400.0


def age(root: Path, days: float, pattern: str = "**/*") -> None:
    then = time.time() - days * DAY
    for path in root.glob(pattern):
        os.utime(path, (then, then))


def paths(entries: list[object]) -> set[str]:
    return {entry.path for entry in entries}  # type: ignore[attr-defined]


def objects(root: Path | str) -> dict[str, bytes]:
    store = open_store(root)
    return {entry.path: store.read(entry.path) for entry in store.list()}


@pytest.fixture
def recipe(tiny_copy: Path) -> Path:
    return tiny_copy.parent / "tiny.yaml"


def killed(out: Path | str, certificate: Certificate, recipe: Path) -> None:
    """A build that ran all its units and died before it published."""
    assert run_here(prepared(out, certificate, str(recipe)), Fetcher()) == []


def test_a_sweep_finds_and_touches_nothing_unless_told(tiny_copy: Path, certificate: Certificate, recipe: Path) -> None:
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    age(out, 8)
    before = objects(out)
    found = find(str(out))
    assert len(found.orphans) == len(before)
    assert objects(out) == before


def test_the_orphans_of_a_killed_build_go_after_their_grace(
    certificate: Certificate, recipe: Path, tmp_path: Path
) -> None:
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    young = find(str(out))
    assert young.orphans == [] and len(young.young) == len(objects(out))
    age(out, 6.99)
    assert find(str(out)).orphans == []
    age(out, 7.01)
    found = find(str(out))
    assert paths(found.orphans) == set(objects(out)) and found.young == []
    assert remove(str(out), found) == len(found.orphans)
    assert objects(out) == {}


def test_what_a_killed_writer_left_is_swept(tiny_copy: Path) -> None:
    part = tiny_copy / "dataset=lines/00000-000-0123.parquet.part-0123456789ab"
    part.write_bytes(b"PAR1")
    assert part.name in str(find(str(tiny_copy)).young)
    age(tiny_copy, 8)
    found = find(str(tiny_copy))
    assert part.relative_to(tiny_copy).as_posix() in paths(found.orphans)
    remove(str(tiny_copy), found)
    assert not part.exists()
    assert verify(str(tiny_copy), full=True).faults == []


def test_the_files_of_every_published_version_stay(certificate: Certificate, recipe: Path) -> None:
    out = recipe.parent / "out"
    build(out, certificate, str(recipe))
    write_jsonl(recipe.parent / "inputs/3.json.gz", records(4, 700))
    recipe.write_text(recipe.read_text().replace("*.json.gz", "[03].json.gz"))
    build(out, certificate, str(recipe))
    age(out, 99)
    found = find(str(out))
    assert found.versions == [1, 2]
    assert find(str(out), grace_seconds=0).orphans == found.orphans == []  # nor plans and records of units
    (stray := out / "_bamba/units/lines/0123/unit.json").parent.mkdir()
    stray.write_bytes(b"{}")
    assert remove(str(out), find(str(out), grace_seconds=0)) == 1
    assert verify(str(out), 1, full=True).faults == verify(str(out), 2, full=True).faults == []
    assert build(out, certificate, str(recipe))[0].number == 2  # found again: its lock stayed too


def test_foreign_files_are_none_of_ours(tiny_copy: Path) -> None:
    (tiny_copy / "README.md").write_text("mine")
    (tiny_copy / "notes").mkdir()
    (tiny_copy / "notes/a.txt").write_text("mine")
    age(tiny_copy, 99)
    assert not {"README.md", "notes/a.txt"} & paths(find(str(tiny_copy)).orphans)


def test_a_running_build_protects_everything(certificate: Certificate, recipe: Path) -> None:
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    age(out, 99)
    before = objects(out)
    with shared(open_store(out), "abc"):
        found = find(str(out))
        assert found.leases == [f"{LEASES}/abc.json"]
        with pytest.raises(UserError, match=r"a build is running .*abc\.json"):
            remove(str(out), found)
    assert objects(out) == before
    assert find(str(out)).leases == []


def test_a_lease_that_is_no_longer_renewed_protects_nothing(certificate: Certificate, recipe: Path) -> None:
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    open_store(out).put(f"{LEASES}/dead.json", b"{}\n")
    age(out, 99)
    found = find(str(out))
    assert found.leases == [] and f"{LEASES}/dead.json" in paths(found.orphans)


def begin_a_build(store: Store, certificate: Certificate, recipe: Path) -> None:
    store.put(f"{LEASES}/late.json", b"{}\n")


def publish_a_version(store: Store, certificate: Certificate, recipe: Path) -> None:
    assert finish(prepared(store.url, certificate, str(recipe)))[0].number == 1


@pytest.mark.parametrize(
    ("event", "says"),
    [(begin_a_build, "a build is running"), (publish_a_version, "a version was published since")],
)
def test_what_happens_between_finding_and_removing_is_noticed(
    certificate: Certificate, recipe: Path, event: Callable[[Store, Certificate, Path], None], says: str
) -> None:
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    age(out, 99)
    found = find(str(out))
    assert len(found.orphans) > 20
    event(open_store(out), certificate, recipe)
    with pytest.raises(UserError, match=says):
        remove(str(out), found)
    assert paths(found.orphans) <= set(objects(out))


def test_old_shards_stay_while_a_young_record_names_them(certificate: Certificate, recipe: Path) -> None:
    """A build that was killed a week ago, went on today and stopped again: its next run publishes these shards."""
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    age(out, 8)
    for record in out.glob("_bamba/units/*/*/unit.json"):
        record.touch()
    found = find(str(out))
    assert not any(path.startswith(("dataset=", "_bamba/dead_letters")) for path in paths(found.orphans))
    remove(str(out), found)
    finish(prepared(out, certificate, str(recipe)))
    assert verify(str(out), full=True).faults == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"parts":5}', b'{"parts":[{"shard":7}]}', b'{"parts":[null]}'])
def test_a_young_record_that_cannot_be_read_protects_nothing(tiny_copy: Path, content: bytes) -> None:
    (record := tiny_copy / "_bamba/units/lines/0123/unit.json").parent.mkdir()
    (shard := tiny_copy / "dataset=lines/00000-000-0123.parquet").write_bytes(b"PAR1")
    age(tiny_copy, 8)
    record.write_bytes(content)
    found = find(str(tiny_copy))
    assert paths(found.young) == {record.relative_to(tiny_copy).as_posix()}
    assert paths(found.orphans) == {shard.relative_to(tiny_copy).as_posix()}


@pytest.mark.parametrize("change", [{"format": "bamba-unit/99"}, {"of_a_later_version": 1}])
def test_a_whole_record_of_another_version_stops_the_sweep(
    certificate: Certificate, recipe: Path, change: dict[str, object]
) -> None:
    """What it names may still be published: a sweep that does not understand it must not take it for damage."""
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    age(out, 8)
    record = next(out.glob("_bamba/units/*/*/unit.json"))
    record.write_bytes(seal(unseal(record.read_bytes(), "", 1 << 24) | change))
    before = objects(out)
    with pytest.raises(UnknownRecord, match="nothing was removed"):
        find(str(out))
    assert objects(out) == before


def test_a_sweep_killed_at_any_point_leaves_a_dataset_that_builds_the_same(
    certificate: Certificate, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = build(recipe.parent / "quiet", certificate, str(recipe))[1].digest
    unlink, left = Path.unlink, 0
    monkeypatch.setattr(fence, "SWEEP_LIVES_SECONDS", 1.0)  # so long the fence of a killed sweep stands

    def counted(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if "clock-" not in path.name and ".part-" not in path.name:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    for point in (1, 5, 14, 20):
        out = recipe.parent / f"out-{point}"
        killed(out, certificate, recipe)
        age(out, 99)
        found = find(str(out))
        left = point
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "unlink", counted)
            remove(str(out), found)
        assert build(out, certificate, str(recipe))[1].digest == quiet
        assert verify(str(out)).faults == []


def test_a_clock_of_ours_that_is_a_month_ahead_makes_nothing_old(
    certificate: Certificate, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = recipe.parent / "out"
    killed(out, certificate, recipe)
    true = time.time()
    monkeypatch.setattr(time, "time", lambda: true + 30 * DAY)
    assert find(str(out)).orphans == []


@pytest.mark.s3
def test_a_sweep_on_s3_does_the_same(tiny_copy: Path, certificate: Certificate, recipe: Path, bucket: str) -> None:
    killed(bucket, certificate, recipe)
    before = objects(bucket)
    assert find(bucket).orphans == []
    assert paths(find(bucket).young) == set(before)
    found = find(bucket, grace_seconds=0)
    assert paths(found.orphans) == set(before)
    build(bucket, certificate, str(recipe))
    with pytest.raises(UserError, match="published since"):
        remove(bucket, found)
    store = open_store(bucket)
    for number in range(1100):  # more than one request takes
        store.put(f"_bamba/units/lines/old/part-{number:05d}.json", b"")
    found = find(bucket, grace_seconds=0)
    assert remove(bucket, found) == len(found.orphans) == 1100
    assert verify(bucket, full=True).faults == []
    assert versions(open_store(bucket)) == [1]


def test_a_place_with_nothing_in_it_is_not_swept_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound):
        find(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_the_default_grace_is_a_week() -> None:
    assert DEFAULT_GRACE_SECONDS == 7 * DAY
    assert json.dumps(Sweep([], [], [], 0, []).__dict__)
