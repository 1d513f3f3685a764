"""Within pipelines imports run one way: commands, a dataset's build, Ray, and what is observed of them."""

import ast
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"
ORDER = ("cli", "dataset_build", "ray_jobs", "observe")  # each may import those after it


def rooms_imported(file: Path) -> set[str]:
    """The rooms of pipelines that a file of a room imports, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    depth = len(file.relative_to(PIPELINES).parts)
    return {node.module.partition(".")[0] for node in nodes if node.level == depth and node.module}


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_those_below_it(room: str) -> None:
    above = set(ORDER[: ORDER.index(room)])
    upward = {file.name: rooms & above for file in (PIPELINES / room).rglob("*.py") if (rooms := rooms_imported(file))}
    assert not any(upward.values()), upward


def test_a_wrong_import_would_be_seen() -> None:
    assert rooms_imported(PIPELINES / "dataset_build" / "run.py") == {"observe", "ray_jobs"}
