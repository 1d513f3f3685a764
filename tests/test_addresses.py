"""`bamba.loader` is ours whatever else is called `loader`; where that name is ours too, it is the same module."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines.ray_jobs.pretrain import RankCommand
from tests.peers import environment
from tests.wheels import built_wheel

ROOT = Path(__file__).parents[1]

SAME = """
import {first}, {second}
import loader, bamba.loader, loader.order.plan, bamba.loader.order.plan, bamba.trainer.config, trainer.config
assert loader is bamba.loader and loader.order.plan is bamba.loader.order.plan
assert trainer.config is bamba.trainer.config
assert loader.order.plan.__spec__.name == loader.order.plan.__name__ == "bamba.loader.order.plan"
from loader import build_loader
assert build_loader is bamba.loader.build_loader
"""

#: A user's script in a folder that has a loader.py, a trainer/ and a pipelines/ of its own.
BESIDE = """
import sys
import loader, trainer
from bamba.loader import build_loader
from bamba.pipelines.dataset_build import plan
from bamba.trainer import config
if __name__ == "__main__":
    rows = build_loader(sys.argv[1], row_tokens=64, batch_rows=2, num_workers=2, cache=sys.argv[2], max_steps=3)
    print(loader.MINE, trainer.MINE, sum(len(batch["row"]) for batch in rows))
    print("loader.order" in sys.modules)
"""


def run(*arguments: object, cwd: Path, python: Path | str = sys.executable) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("first", "second"), [("loader", "bamba"), ("bamba.loader", "loader")])
@pytest.mark.parametrize("place", ["checkout", "elsewhere"])
def test_both_names_are_one_module_whichever_is_imported_first(
    first: str, second: str, place: str, tmp_path: Path
) -> None:
    run("-W", "error", "-c", SAME.format(first=first, second=second), cwd=ROOT if place == "checkout" else tmp_path)


def test_files_of_a_user_with_our_names_and_our_packages_work_in_one_process(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text("MINE = 1\n")
    for name in ("trainer", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = 2\n")
    (tmp_path / "script.py").write_text(BESIDE)
    assert run("script.py", tiny, tmp_path / "cache", cwd=tmp_path).split() == ["1", "2", "6", "False"]


@pytest.mark.costly
def test_a_wheel_has_code_at_our_address_alone(tmp_path: Path) -> None:
    """What another package may overwrite, or delete when it is uninstalled, is a few lines that lead to the code."""
    wheel = built_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in ("loader", "trainer", "pipelines"):
        at_the_short_name = {name for name in names if name.startswith(f"{package}/")}
        assert at_the_short_name == {f"{package}/__init__.py", f"{package}/py.typed"}
        ours = {f"bamba/{path.relative_to(ROOT)}" for path in (ROOT / package).rglob("*.py")}
        assert ours <= names
    assert not {name for name in names if "_top_level" in name}
    assert {"bamba/trainer/recipes/bamba-9b-phase1.yaml", "bamba/py.typed", "bamba/loader/py.typed"} <= names


def test_a_rank_that_ray_starts_beside_a_trainer_of_the_user_s_is_ours(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("print('somebody else s')\n")
    with RankCommand(["--print"], "tiny-cpu", None).command() as command:
        assert "schedule:" in run(*command[1:], cwd=tmp_path)


@pytest.mark.peers
def test_the_package_of_the_index_that_is_called_trainer_takes_nothing_of_ours(tmp_path: Path) -> None:
    python = environment("trainer", ["--no-deps", "trainer==0.0.36"])
    text = """
import importlib.util, sys
import bamba.trainer.config
spec = importlib.util.find_spec("trainer")
print(spec.origin.startswith(sys.prefix), bamba.trainer.config.__name__)
"""
    assert run("-c", text, cwd=tmp_path, python=python).split() == ["True", "bamba.trainer.config"]
