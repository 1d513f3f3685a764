"""Records of finished work that were damaged, or whose files were, are never used: their units are made anew."""

import json
import random
import shutil
from pathlib import Path

import pytest

from bamba_data.canonical_json import dumps
from bamba_data.errors import NotReproducible
from bamba_data.format.layout import part_path, unit_path
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import LocalStore
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.driver import finish, run_here
from pipelines.dataset_build.finished_units import UnitsLost
from pipelines.dataset_build.staged_records import Staging
from tests.building import build, prepared


@pytest.fixture
def mine(staged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(staged, tmp_path / "staged"))


def published(folder: Path, certificate: Certificate) -> str:
    """The digest of the dataset that a build makes of what is staged: run again when it says so."""
    recipe = str(folder / "tiny.yaml")
    for _ in range(2):
        try:
            return build(folder / "out", certificate, recipe)[1].digest
        except UnitsLost:
            continue
    raise AssertionError("a dead end")


def quiet(folder: Path, certificate: Certificate) -> str:
    return build(folder / "quiet", certificate, str(folder / "tiny.yaml"))[1].digest


@pytest.mark.parametrize("flips", [8, pytest.param(70, marks=pytest.mark.costly)])
def test_a_flipped_bit_in_any_record_changes_nothing_and_stops_nothing(
    mine: Path, certificate: Certificate, flips: int
) -> None:
    chance, wanted = random.Random(5), quiet(mine, certificate)
    records = sorted((mine / "out/_bamba/units").rglob("*.json"))
    assert len(records) > 8
    for _ in range(flips):
        path = chance.choice(records)
        whole = path.read_bytes()
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        shutil.rmtree(mine / "out/_bamba/versions", ignore_errors=True)
        assert published(mine, certificate) == wanted, path
        assert path.name.startswith(("part", "met")) or path.read_bytes() == whole
    assert verify(str(mine / "out"), full=True).faults == []


def test_a_damaged_record_is_said_set_aside_and_made_anew(mine: Path, certificate: Certificate) -> None:
    record = next((mine / "out/_bamba/units").rglob("unit.json"))
    record.write_bytes(record.read_bytes().replace(b'"size_bytes":', b'"size_bytes" :', 1))
    ready = prepared(mine / "out", certificate, str(mine / "tiny.yaml"))
    with pytest.raises(UnitsLost, match=r"1 finished units cannot be used: .*unit\.json.* damaged.*run the same comm"):
        finish(ready)
    assert not record.exists() and len(list(record.parent.glob("unit.json.aside-*"))) == 1
    assert len(ready.remaining()) == 1
    assert run_here(ready, Fetcher()) == []
    assert finish(ready)[1].digest == quiet(mine, certificate)


def test_a_record_as_it_was_written_before_they_were_sealed_is_made_anew(mine: Path, certificate: Certificate) -> None:
    for path in (mine / "out/_bamba/units").rglob("*.json"):
        if path.name.startswith("met"):
            path.unlink()
            continue
        fields = json.loads(path.read_bytes())
        old = fields["part"] if "part" in fields else {"key": fields["key"], "parts": fields["parts"]}
        path.write_bytes(dumps(old))
    assert published(mine, certificate) == quiet(mine, certificate)


def test_a_record_of_another_unit_is_not_taken_for_ours(mine: Path, certificate: Certificate) -> None:
    one, other = sorted((mine / "out/_bamba/units/lines").rglob("unit.json"))[:2]
    one.write_bytes(other.read_bytes())
    for part in other.parent.glob("part-*.json"):
        (one.parent / part.name).write_bytes(part.read_bytes())
    assert published(mine, certificate) == quiet(mine, certificate)


@pytest.mark.parametrize("cut", [None, 10])
def test_a_staged_file_that_is_gone_or_cut_is_made_anew(mine: Path, certificate: Certificate, cut: int | None) -> None:
    for path in [
        next((mine / "out").glob("dataset=lines/*")),
        next((mine / "out/_bamba/dead_letters").rglob("*.par*")),
    ]:
        path.unlink() if cut is None else path.write_bytes(path.read_bytes()[:cut])
    assert published(mine, certificate) == quiet(mine, certificate)
    assert verify(str(mine / "out"), full=True).faults == []


def test_two_results_of_one_unit_are_an_error_but_a_damaged_record_is_no_result(
    mine: Path, certificate: Certificate
) -> None:
    staging = Staging(LocalStore(mine / "out"))
    unit = next(one for one in prepared(mine / "out", certificate, str(mine / "tiny.yaml")).plan.units)
    record = staging.unit(unit.source, unit.key)
    assert record is not None and staging.finish(record) == record
    path = mine / "out" / unit_path(unit.source, unit.key)
    path.write_bytes(path.read_bytes()[:-9])
    assert staging.finish(record) == staging.unit(unit.source, unit.key) == record
    record.parts[0].sampled.tokens += 1  # another library may have written it: the first record counts
    assert staging.finish(record) == staging.unit(unit.source, unit.key) != record
    record.parts[0].ledgers[0].tokens += 1
    with pytest.raises(NotReproducible, match="two different results"):
        staging.finish(record)
    assert (mine / "out" / part_path(unit.source, unit.key, 0)).exists()


def test_a_published_shard_that_is_damaged_is_repaired_as_verify_says(mine: Path, certificate: Certificate) -> None:
    """Removed, it is made anew by the same build, under the same version."""
    wanted = published(mine, certificate)
    shard = next((mine / "out").glob("dataset=lines/*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:200] + bytes([whole[200] ^ 4]) + whole[201:])
    assert {fault.where for fault in verify(str(mine / "out"), full=True).faults} == {f"dataset=lines/{shard.name}"}
    shard.unlink()
    assert published(mine, certificate) == wanted
    assert shard.read_bytes() == whole and verify(str(mine / "out"), full=True).faults == []
    assert len(list((mine / "out/_bamba/versions").iterdir())) == 1
