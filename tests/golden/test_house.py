"""What no move of code may change: the demo's plan, units, identity and publication, and the commands people type."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer.main

from bamba_data.certificate import Certificate
from bamba_data.dataset import open_dataset
from tests.building import prepared

PLAN = "d25623b224f2378fe5dc57a41023d891bc31c1ce1cbae11041100a18bee60769"
UNITS = [
    ("books", "07e98900dd7cf4a2fc6b1d4024125d93"),
    ("books", "dd0b4204c4fea5ae1cc769ee4b52153b"),
    ("books", "95e1263da846a29ccbc2a3b83b0ffd51"),
    ("cosmopedia-stories", "cccf3b55dd3475c686b6fe8310049976"),
    ("fineweb-edu", "0d86c1118e9667ee83235c95c94a12f5"),
    ("fineweb-edu", "65dbddbf69c2d9f922c7a441da5595fe"),
]
IDENTITY = "ede7d7829ff6b913e1b5b7e4e2ddd22bd29d704a8c7c01b40ed4642f754bcf2d"
#: Of the publication: it also says which libraries wrote the bytes.
MANIFEST = "fbea5423935dfd525bb43e28b0636c5bd49f42e8a099142491c05d77cd5e94ce"
LIBRARIES = {"pyarrow": "26.0.1", "tokenizers": "0.23.3", "gigatoken": "0.10.0", "bamba-data": "0.1.0"}

COMMANDS = {
    *("show", "stats", "verify", "diff", "sweep", "versions", "withdraw", "expire", "tag"),
    *("lock", "plan", "build", "download", "index", "recipes", "trace"),
    *("submit", "logs", "stop", "status", "preflight", "report"),
}
#: `python -m MODULE`, each with a page of help.
MODULES = [
    *("pipelines.tokenize", "pipelines.download", "pipelines.pretrain", "pipelines.index"),
    *("loader.index", "loader.pack", "loader.quality", "loader.simulate"),
    *("trainer", "trainer.evaluate", "trainer.generate", "trainer.export_hf", "trainer.import_hf"),
    *("trainer.checkpoints", "trainer.health", "trainer.demo"),
]


def test_the_demo_s_plan_and_units_have_the_names_that_they_had(certificate: Certificate, tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", certificate).plan
    assert [(unit.source, unit.key) for unit in plan.units] == UNITS
    assert plan.digest == PLAN


def test_the_demo_has_the_identity_that_it_had(demo: Path) -> None:
    assert open_dataset(str(demo)).identity == IDENTITY


def test_the_demo_is_published_by_the_same_bytes(demo: Path) -> None:
    here = {name: metadata.version(name) for name in LIBRARIES}
    if here != LIBRARIES:
        pytest.skip(f"other libraries write other bytes: {here}, the digest is of {LIBRARIES}")
    assert open_dataset(str(demo)).manifest.digest == MANIFEST


def test_the_commands_are_those_that_people_type() -> None:
    from pipelines.cli import app

    command = typer.main.get_command(app)
    assert set(command.commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_run_has_a_page_of_help(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr[-500:]
