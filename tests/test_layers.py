"""The house stands: imports run one way, heavy ones stay on their floor, and nothing executes what it reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["bamba_data", "loader", "trainer", "pipelines"]  # each may import what stands before it

#: Calls that run what a file says.
#: Files of `loader` that know torch; the functions of the order do not.
TORCH = ("loader/dataloader.py", "loader/masks.py", "loader/row_dataset.py", "loader/token_dataset.py")
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "yaml.load", "marshal.loads", "np.load"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}

#: The one file that runs code: the function of a recipe's `transform`, from the user's own file as it was locked. What
#: a dataset says is never run (bamba_data/filtering/transform_source.py).
TRANSFORM, RUNS_WHAT_A_RECIPE_NAMES = "bamba_data/filtering/transform.py", {"compile"}


def files(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def imported(tree: ast.AST, place: str = "") -> Iterator[str]:
    """All modules that a file imports, wherever in it, by their short names: `loader.x` of `bamba.loader.x`."""
    folders = place.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("bamba.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])]).removeprefix("bamba.")
            yield module
            yield from (f"{module}.{alias.name}".removeprefix("bamba.") for alias in node.names)


def called(tree: ast.AST) -> Iterator[str]:
    """`name` or `module.name` of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def misplaced(place: str, tree: ast.AST) -> set[str]:
    """The imports that do not belong on the floor of a file."""
    floor = place.split("/")[0]
    above = set(FLOORS[FLOORS.index(floor) + 1 :])
    if floor != "pipelines":
        above.add("ray")
    if floor in ("bamba_data", "pipelines") or (floor == "loader" and place not in TORCH):
        above.add("torch")
    return {name for name in imported(tree, place) if name.split(".")[0] in above}


def unsafe(tree: ast.AST) -> set[str]:
    modules = {name for name in imported(tree) if name.split(".")[0] in UNSAFE_MODULES}
    return modules | {call for call in called(tree) if call in UNSAFE_CALLS}


@pytest.mark.parametrize("path", files(*FLOORS), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_floor_may(path: Path) -> None:
    assert misplaced(path.relative_to(ROOT).as_posix(), ast.parse(path.read_bytes())) == set()


@pytest.mark.parametrize("path", files("bamba_data", "loader"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_evaluates_what_it_reads(path: Path) -> None:
    allowed = RUNS_WHAT_A_RECIPE_NAMES if path.relative_to(ROOT).as_posix() == TRANSFORM else set()
    assert unsafe(ast.parse(path.read_bytes())) == allowed


@pytest.mark.parametrize("path", files("loader", "trainer", "pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_our_code_says_no_name_that_others_may_take(path: Path) -> None:
    """A `loader.py` beside a user's script must not be what our code finds (bamba/__init__.py)."""
    absolute = {
        name
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert not {name for name in absolute if name.split(".")[0] in ("loader", "trainer", "pipelines")}


def test_the_data_pipelines_touch_the_trainer_in_one_file_only() -> None:
    touching = [
        path
        for path in files("pipelines")
        if any(name.split(".")[0] == "trainer" for name in imported(ast.parse(path.read_bytes())))
    ]
    assert len(touching) <= 1


#: What changes which version readers of a place get.
CHANGES = {f"bamba_data.format.{name}" for name in ("versions.publish", "version_marks.mark", "version_marks.unmark")}


def test_whoever_changes_what_a_place_offers_brings_its_card_up_to_date() -> None:
    """README.md names exact files: one that is left behind leads `datasets` to another version than our readers."""
    publishing = {
        path.relative_to(ROOT).as_posix()
        for path in files(*FLOORS)
        if (names := set(imported(ast.parse(path.read_bytes())))) & CHANGES
        and not any(name.startswith("bamba_data.card.refresh") for name in names)
    }
    assert publishing == set()


def test_what_tests_share_is_in_no_test_file() -> None:
    """One that imports another runs its tests twice, or falls with it."""
    shared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files("tests")
        for name in imported(ast.parse(path.read_bytes()))
        if name.startswith("tests.") and any(part.startswith(("test_", "conftest")) for part in name.split("."))
    }
    assert shared == set()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("bamba_data/x.py", "import ray"),
        ("bamba_data/x.py", "def f():\n    from torch.utils import data"),
        ("bamba_data/x.py", "from pipelines.dataset_build.plan import Plan"),
        ("bamba_data/sources/x.py", "import loader"),
        ("loader/order/plan.py", "import torch"),
        ("loader/dataloader.py", "import ray"),
        ("trainer/x.py", "import pipelines"),
        ("trainer/x.py", "from bamba.pipelines.cli import app"),
        ("trainer/x.py", "from bamba import pipelines"),
        ("loader/order/x.py", "from ...trainer import config"),
        ("pipelines/x.py", "import torch"),
    ],
)
def test_a_misplaced_import_is_seen(place: str, text: str) -> None:
    assert misplaced(place, ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "yaml.load(x)",
        "import dill as json",
    ],
)
def test_an_unsafe_read_is_seen(text: str) -> None:
    assert unsafe(ast.parse(text))
