"""What no move of code may change: the demo's plan, units, identity and publication, and the commands people type."""

import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import typer.main

import bamba_data
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.manifest import Manifest, SoftwareEntry, Tables
from bamba_data.format.tables import SCHEMAS, TableWriter
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build import plan as plans
from tests.building import prepared

#: Of inputs whose etag is "fixed": that of a local file holds the time of its last change.
PLAN = "9a16de0a7c1cefcbaaed191972e790f3e1124ba86ab6945ebcc728cf49adbc07"
#: (source, what the names of its shards begin with, key)
UNITS = [
    ("books", "d52cb740ec84", "24ffe6f3c124c344c863a0d4295e8a1e"),
    ("books", "bc7724f4079d", "2b6c290fc2e8ba746ebacfa0e4ec744a"),
    ("books", "4c1b154a3d8d", "f856fea579a2bd8d4bfe4e0778b1df30"),
    ("cosmopedia-stories", "4c570788b87e", "8f0690ef083229a716b6c0ef6d0f7e3e"),
    ("fineweb-edu", "380a9544f47d", "a0c7c9248a79de4c59028fb7d5a84383"),
    ("fineweb-edu", "14b37a9b1c39", "ef9d5edce2c12d9b9d8a90a7dfe6bda7"),
]
IDENTITY = "ede7d7829ff6b913e1b5b7e4e2ddd22bd29d704a8c7c01b40ed4642f754bcf2d"
#: Of the publication: it also says which libraries wrote the bytes.
MANIFEST = "636bdc47e99a2adedfac9d0654b065e31aa65835237f365343666fb57ab757ce"
LIBRARIES = {"pyarrow": "26.0.1", "tokenizers": "0.23.3", "gigatoken": "0.10.0", "bamba-data": "0.1.0"}

COMMANDS = {
    *("show", "stats", "verify", "diff", "sweep", "versions", "withdraw", "expire", "tag"),
    *("lock", "plan", "build", "download", "index", "recipes", "trace"),
    *("submit", "logs", "stop", "status", "preflight", "report"),
}
#: Since then.
NEW_COMMANDS = {"card", "drop", "export", "import", "index-on-ray", "loader", "model", "push", "subset"}
NEW_COMMANDS |= {"append", "compact", "contaminated", "duplicates", "merge", "page", "schema", "serve"}
#: `python -m MODULE`, each with a page of help.
MODULES = [
    *("pipelines.tokenize", "pipelines.download", "pipelines.pretrain", "pipelines.index"),
    *("loader.index", "loader.pack", "loader.quality", "loader.simulate"),
    *("trainer", "trainer.evaluate", "trainer.generate", "trainer.export_hf", "trainer.import_hf"),
    *("trainer.checkpoints", "trainer.health", "trainer.demo"),
    *("bamba_data", "pipelines", "loader"),
]


def test_the_demo_s_plan_and_units_have_the_names_that_they_had(certificate: Certificate, tmp_path: Path) -> None:
    made = prepared(tmp_path / "out", certificate)
    files = (replace(file, facts=file.facts._replace(etag="fixed")) for file in made.plan.lock.files)
    plan = plans.make(made.plan.recipe, replace(made.plan.lock, files=tuple(files)), made.tokenizer.sha256)
    assert [(unit.source, unit.label, unit.key) for unit in plan.units] == UNITS
    assert plan.digest == PLAN


def test_the_demo_has_the_identity_that_it_had(demo: Path) -> None:
    assert open_dataset(str(demo)).identity == IDENTITY


def test_the_demo_is_published_by_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    here = {name: metadata.version(name) for name in LIBRARIES if name != "bamba-data"}
    if here.items() - LIBRARIES.items():
        pytest.skip(f"other libraries write other bytes: {here}, the digest is of {LIBRARIES}")
    dataset = open_dataset(str(demo))
    assert [one.versions for one in dataset.manifest.software] == [LIBRARIES | {"bamba-data": bamba_data.__version__}]
    assert as_written_by(LIBRARIES, dataset, open_store(str(tmp_path))).digest == MANIFEST


def as_written_by(versions: dict[str, str], dataset: Dataset, scratch: Store) -> Manifest:
    """The manifest that this dataset would have had the release named in `versions` written the very same shards: a
    release of ours changes its own number in it, and may change nothing else."""
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    tables = {}
    for name in SCHEMAS:
        rows = getattr(dataset, name).to_dicts()
        with TableWriter(name) as writer:
            writer.add([{**row, "software": said} if "software" in row else row for row in rows])
            tables[name] = writer.save(scratch)
    manifest = dataset.manifest
    fields = {name: getattr(manifest, name) for name in Manifest.model_fields}
    software = [SoftwareEntry(versions=versions, shards=manifest.tables.shards.rows)]
    return Manifest(**fields | {"software": software, "tables": Tables(**tables)})


def test_the_commands_are_those_that_people_type() -> None:
    from pipelines.cli import app

    command = typer.main.get_command(app)
    assert set(command.commands) == COMMANDS | NEW_COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_run_has_a_page_of_help(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr[-500:]
