"""A command that looks at a place where nothing of ours is says so, fails, and leaves nothing there."""

from pathlib import Path

import pytest
import typer

from bamba_data.errors import BambaError, DatasetNotFound, UserError
from bamba_data.tokenization.conformance import Certificate
from pipelines.cli import app
from tests.building import prepared

LOOKING = [
    "show",
    "show --json",
    "stats",
    "verify",
    "card",
    "card --write",
    "versions",
    "versions --json",
    "trace {} a:0",
    "diff {} {}",
    "status",
    "status --json",
    "status --events",
    "report --out {out}",
    "sweep",
    "sweep --json",
    "sweep --delete --grace-hours 0",
    "expire --keep 1",
    "expire --older-than 3 --dry-run",
    "expire {} 1",
    "withdraw {} 1",
    "withdraw {} 1 --undo",
    "tag {} stable 1",
    "tag {} stable --remove",
]


def run(words: str, place: Path, out: Path) -> None:
    verb, *rest = words.split()
    given = [word.format(place, out=out) for word in rest]
    if "{}" not in rest:
        given.insert(0, str(place))
    typer.main.get_command(app).main([verb, *given], prog_name="bamba-data", standalone_mode=False)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", LOOKING)
@pytest.mark.parametrize("kind", ["missing", "of somebody else"])
def test_where_nothing_is_that_is_said_and_nothing_is_left_there(words: str, kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "of somebody else":
        (place / "dataset=mine").mkdir(parents=True)
        (place / "dataset=mine" / "a.parquet").write_bytes(b"not yours")
        (place / "README.md").write_bytes(b"mine")
    before = content(tmp_path)
    with pytest.raises(DatasetNotFound, match=str(place)) as refused:
        run(words, place, tmp_path / "out.html")
    assert isinstance(refused.value, BambaError) and refused.value.exit_code == 2
    assert content(tmp_path) == before and not (place / "_bamba").exists()


def test_what_a_build_left_is_found_though_nothing_was_published(tmp_path: Path, certificate: Certificate) -> None:
    prepared(tmp_path / "begun", certificate)  # its lock and its tokenizer
    run("sweep --delete --grace-hours 0", tmp_path / "begun", tmp_path)
    assert not [path for path in (tmp_path / "begun").rglob("*") if path.is_file()]


def test_events_are_of_a_dataset_and_not_of_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the URL"):
        typer.main.get_command(app).main(["status", "--address", "x", "--events"], standalone_mode=False)
