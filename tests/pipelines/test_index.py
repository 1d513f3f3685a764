"""The index of text sources as a Ray job."""

from pathlib import Path

import pytest

from loader.index import app as alone
from pipelines.cli import run
from pipelines.index import app
from tests.corpora import recipe, records, write_parquet


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A recipe of three parquet files."""
    for n in range(3):
        write_parquet(tmp_path / "inputs" / f"{n}.parquet", records(30, n * 30), row_group_size=7)
    return recipe(tmp_path, files=["*.parquet"], form="parquet")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.costly
@pytest.mark.ray
def test_a_cluster_makes_the_index_that_one_process_makes(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(alone, ["--recipe", str(texts), "--index", str(tmp_path / "alone"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert run(app, [str(texts), "--index", str(tmp_path / "together"), "--workers", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said.splitlines()[-1]
    assert content(tmp_path / "together") == content(tmp_path / "alone")


@pytest.mark.ray
@pytest.mark.long
def test_a_damaged_file_is_named_and_the_others_are_kept(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "inputs" / "1.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    assert run(app, [str(texts), "--index", str(tmp_path / "index"), "--workers", "2"]) == 5
    assert "1.parquet" in capsys.readouterr().err
    parts = {path for path in (tmp_path / "index").rglob("*") if path.is_file()}
    assert parts and not [path for path in parts if path.name == "index.json"]
    damaged.write_bytes(whole)
    before = {path: path.stat().st_mtime_ns for path in parts}
    assert run(alone, ["--recipe", str(texts), "--index", str(tmp_path / "index"), "--workers", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in parts} == before


def test_a_place_that_other_machines_cannot_see_is_refused(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, [str(texts), "--index", "index"]) == 2
    assert "relative path" in capsys.readouterr().err


def test_an_unknown_recipe_is_told_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["nosuch", "--index", str(tmp_path / "index")]) == 2
    told = capsys.readouterr().err
    assert "nosuch: no such recipe; these ship with us: " in told and "cosmopedia, " in told and " demo, " in told
