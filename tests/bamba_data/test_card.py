"""README.md and croissant.json say what the newest version is, whatever happened to versions, and destroy nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from bamba_data.card.licences import hub_licences
from bamba_data.card.readme import tail_of
from bamba_data.card.refresh import card_of, refresh
from bamba_data.catalog import expire, offer_again, tag, untag, withdraw
from bamba_data.cli import app
from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.inspect import garbage
from bamba_data.inspect.verify import verify
from bamba_data.records import seal
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate
from tests import peers
from tests.building import build
from tests.corpora import lines, recipe, records, write_jsonl

FEWER = ["limits.documents=5"]


@pytest.fixture
def twice(tiny: Path, tmp_path: Path, certificate: Certificate) -> Path:
    """Two versions, of which the second has fewer documents; and what a killed build left."""
    shutil.copytree(tiny.parent, tmp_path / "tiny")
    folder = tmp_path / "tiny" / "dataset"
    build(folder, certificate, str(folder.parent / "tiny.yaml"), FEWER)
    shard = open_dataset(folder).shards["path"][0]
    shutil.copy(folder / shard, folder / f"{shard.removesuffix('.parquet')}-left.parquet")
    return folder


def header(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def named(folder: Path) -> dict[str, list[str]]:
    """The files of each config of the card that lies there."""
    configs = header((folder / "README.md").read_text(encoding="utf-8"))["configs"]
    return {
        config["config_name"]: [path for split in config["data_files"] for path in split["path"]] for config in configs
    }


def files_of(dataset: Dataset) -> dict[str, list[str]]:
    shards = dataset.shards
    by_source = {name: list(shards.filter(shards["source"] == name)["path"]) for name in ("lines", "rows")}
    return {"default": list(shards["path"]), **by_source}


def test_the_card_names_the_exact_files_of_the_version_that_readers_get(twice: Path) -> None:
    store = open_store(twice)
    first, second = (files_of(open_dataset(twice, number)) for number in (1, 2))
    assert first != second and named(twice) == second
    withdraw(store, 2, "a mistake")
    assert named(twice) == first
    offer_again(store, 2)
    assert named(twice) == second
    expire(store, [1], "")
    assert named(twice) == second


def test_where_nothing_is_offered_the_card_leads_to_no_file_at_all(twice: Path) -> None:
    for number in (1, 2):
        withdraw(open_store(twice), number, "")
    (paths,) = (split["path"] for split in header((twice / "README.md").read_text())["configs"][0]["data_files"])
    assert not (twice / paths).exists() and not (twice / "croissant.json").exists()
    offer_again(open_store(twice), 1)
    assert named(twice) == files_of(open_dataset(twice, 1)) and (twice / "croissant.json").exists()


def test_a_tag_stands_in_the_card_as_long_as_it_is_there(twice: Path) -> None:
    tag(open_store(twice), "stable", 2, move=False)
    assert "tagged stable" in (twice / "README.md").read_text()
    untag(open_store(twice), "stable")
    assert "tagged" not in (twice / "README.md").read_text()


def test_neither_file_is_part_of_the_identity_or_garbage(twice: Path) -> None:
    before = (twice / "README.md").read_bytes()
    digest = open_dataset(twice).manifest.digest
    (twice / "README.md").unlink()
    assert open_dataset(twice).manifest.digest == digest and not verify(str(twice), full=True).faults
    refresh(open_store(twice))
    assert (twice / "README.md").read_bytes() == before
    found = garbage.find(str(twice), grace_seconds=0)
    assert not any(entry.path.startswith(("README", "croissant")) for entry in found.orphans)
    garbage.remove(str(twice), found)
    assert (twice / "README.md").read_bytes() == before and (twice / "croissant.json").exists()


def test_a_build_that_died_before_its_card_makes_it_when_it_runs_again(twice: Path, certificate: Certificate) -> None:
    for name in ("README.md", "croissant.json"):
        (twice / name).unlink()
    version, _ = build(twice, certificate, str(twice.parent / "tiny.yaml"), FEWER)
    assert version.number == 2 and named(twice) == files_of(open_dataset(twice, 2))


@pytest.mark.parametrize(
    "wrote",
    [
        b"# Mine\n",
        b"\xff\xfe not UTF-8",
        b"",
        b"<!-- bamba-data card, sha256 " + b"0" * 64 + b": x -->\n",
    ],
)
def test_a_readme_that_somebody_else_wrote_is_left_and_said(
    twice: Path, wrote: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (twice / "README.md").write_bytes(wrote)
    withdraw(open_store(twice), 2, "")
    assert (twice / "README.md").read_bytes() == wrote and "README.md is not ours" in caplog.text
    assert refresh(open_store(twice), replace=True) == []
    assert named(twice) == files_of(open_dataset(twice, 1))


def test_a_folder_of_that_name_stops_no_command(twice: Path) -> None:
    (twice / "README.md").unlink()
    (twice / "README.md").mkdir()
    assert withdraw(open_store(twice), 2, "") and refresh(open_store(twice)) == ["README.md"]


def test_what_stands_below_the_seal_stays_and_an_edit_above_it_is_not_lost(twice: Path) -> None:
    with (twice / "README.md").open("a", encoding="utf-8") as file:
        file.write("\n## Ours\n\nMade for Grüße.\n")
    withdraw(open_store(twice), 2, "")
    text = (twice / "README.md").read_text(encoding="utf-8")
    assert tail_of(text) == "\n## Ours\n\nMade for Grüße.\n" and named(twice) == files_of(open_dataset(twice, 1))
    edited = text.replace("# tiny", "# Tiny, by us")
    (twice / "README.md").write_text(edited, encoding="utf-8")
    assert refresh(open_store(twice)) == ["README.md"]
    assert (twice / "README.md").read_text(encoding="utf-8") == edited


def test_a_croissant_that_somebody_else_wrote_is_left(twice: Path) -> None:
    theirs = seal({"name": "mine"})
    (twice / "croissant.json").write_bytes(theirs)
    assert refresh(open_store(twice)) == ["croissant.json"] and (twice / "croissant.json").read_bytes() == theirs


def test_of_several_that_change_versions_at_once_the_card_says_what_came_of_it(twice: Path) -> None:
    def flip(number: int) -> None:
        for change in (withdraw, offer_again, withdraw, offer_again)[: 3 + number % 2]:
            change(open_store(twice), number, *(("",) if change is withdraw else ()))  # type: ignore[operator]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(flip, (1, 2)))
    assert named(twice) == files_of(open_dataset(twice))
    assert (twice / "README.md").read_text() == card_of(open_dataset(twice)).readme


def test_a_damaged_newest_version_is_withdrawn_all_the_same(twice: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = twice / "_bamba" / "manifests" / f"{open_dataset(twice).manifest.digest}.json"
    manifest.write_bytes(b"{}")
    tag(open_store(twice), "old", 1, move=False)
    assert "is not made anew" in caplog.text
    withdraw(open_store(twice), 2, "damaged")
    assert named(twice) == files_of(open_dataset(twice, 1))


def test_a_place_where_nothing_was_published_gets_no_card(tmp_path: Path) -> None:
    assert refresh(open_store(tmp_path / "none")) == [] and not (tmp_path / "none").exists()


def test_what_people_wrote_in_a_recipe_stays_text_in_the_card(tmp_path: Path, certificate: Certificate) -> None:
    write_jsonl(tmp_path / "inputs/a.json.gz", lines(records(3, text_chars=200)))
    hostile = '"a|b</td>\\n---\\n# T <script>*x* `y` [z](u) \\u001b[2J"'
    changed = (
        recipe(tmp_path)
        .read_text()
        .replace("name: texts", f"name: default, license: CC-BY-4.0, attribution: {hostile}")
    )
    (tmp_path / "test.yaml").write_text(changed)
    build(tmp_path / "out", certificate, str(tmp_path / "test.yaml"))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    (said,) = (line for line in text.splitlines() if line.startswith("- **default**"))
    assert r"a\|b&lt;/td&gt; --- # T &lt;script&gt;\*x\* \`y\` \[z\](u) \\x1b\[2J" in said
    assert header(text)["license"] == "cc-by-4.0"
    assert list(named(tmp_path / "out")) == ["all", "default"], "the source keeps its name, the whole gets another"
    assert header(text)["configs"][0]["default"] is True


@pytest.mark.parametrize(
    ("licences", "wanted"),
    [
        (["ODC-BY-1.0", "odc-by"], ["odc-by"]),
        (["Apache-2.0", "CC BY 4.0"], ["apache-2.0", "cc-by-4.0"]),
        (["MIT", "my own terms"], ["other"]),
        (["other", "MIT"], ["other"]),
        ([""], ["other"]),
        ([], ["other"]),
    ],
)
def test_a_licence_is_named_as_the_hub_names_it_or_not_at_all(licences: list[str], wanted: list[str]) -> None:
    assert hub_licences(licences) == wanted


def test_the_command_prints_the_card_of_any_version_and_puts_the_newest_one_there(
    twice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> str:
        app(["card", str(twice), *words], standalone_mode=False)
        return capsys.readouterr().out

    assert command() == (twice / "README.md").read_text(encoding="utf-8")
    assert header(command("--version", "1")) != header(command())
    assert command("--croissant").encode() == (twice / "croissant.json").read_bytes()
    (twice / "README.md").write_text("mine")
    with pytest.raises(UserError, match="is not ours"):
        command("--write")
    with pytest.raises(UserError, match="newest"):
        command("--replace", "--version", "1")
    command("--replace")
    assert named(twice) == files_of(open_dataset(twice))


@pytest.mark.s3
def test_a_build_on_s3_has_its_card_there(bucket: str, tmp_path: Path, certificate: Certificate) -> None:
    write_jsonl(tmp_path / "inputs/a.json.gz", lines(records(3, text_chars=200)))
    build(f"{bucket}/set", certificate, str(recipe(tmp_path)))
    store: Store = open_store(f"{bucket}/set")
    text = store.read("README.md").decode()
    assert header(text)["configs"][0]["data_files"][0]["path"] == list(open_dataset(f"{bucket}/set").shards["path"])
    store.put("README.md", b"mine")
    withdraw(store, 1, "")
    assert store.read("README.md") == b"mine" and store.stat("croissant.json") is None


READ = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
folder = sys.argv[1]
names = get_dataset_config_names(folder)
ids = {name: load_dataset(folder, name, split="train")["document_id"][:] for name in names}
assert load_dataset(folder)["train"]["document_id"][:] == ids[names[0]]
streamed = [row["document_id"] for row in load_dataset(folder, split="train", streaming=True)]
print(json.dumps([ids, streamed]))
"""


def alone(script: str, tmp_path: Path, *arguments: object) -> str:
    """What a script prints in a process of its own, offline and without a cache of anybody."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def document_ids(dataset: Dataset, source: str | None = None) -> list[str]:
    import pyarrow.parquet as pq

    urls = dataset.shard_urls(source)
    return [one for url in urls for one in pq.read_table(url, partitioning=None)["document_id"].to_pylist()]


@pytest.mark.process
def test_datasets_loads_the_newest_version_whole_and_by_source(twice: Path, tmp_path: Path) -> None:
    dataset = open_dataset(twice)
    ids, streamed = json.loads(alone(READ, tmp_path, twice))
    assert ids == {
        "default": document_ids(dataset),
        "lines": document_ids(dataset, "lines"),
        "rows": document_ids(dataset, "rows"),
    }
    assert streamed == ids["default"]


@pytest.mark.process
def test_the_code_in_the_card_runs_as_it_stands(twice: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (twice / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    checks = "\nassert len(ids) == rows[0]['token_count']\nassert len(next(iter(loader))['input_ids']) == 8\n"
    script = "import sys\nfolder = sys.argv[1]\n" + "\n".join(blocks).replace("row_tokens=4096", "row_tokens=64")
    said = alone(script + checks, tmp_path, twice)
    totals = open_dataset(twice).manifest.totals
    assert str(totals.kept) in said and str(totals.tokens) in said


CROISSANT = """
import json, subprocess, sys
from pathlib import Path
import mlcroissant
file, validate = sys.argv[1], Path(sys.executable).parent / "mlcroissant"
said = subprocess.run([validate, "validate", "--jsonld", file], capture_output=True, text=True)
assert said.returncode == 0 and "warning" not in said.stderr.lower(), said.stderr
dataset = mlcroissant.Dataset(file)
print(json.dumps({s.uuid: [r[f"{s.uuid}/document_id"].decode() for r in dataset.records(s.uuid)]
                  for s in dataset.metadata.record_sets}))
"""


@pytest.mark.peers
def test_mlcroissant_validates_the_description_and_reads_every_source_by_it(twice: Path) -> None:
    python = peers.environment("mlcroissant", ["mlcroissant==1.1.0"])
    dataset = open_dataset(twice)
    said = json.loads(peers.run(python, CROISSANT, twice / "croissant.json"))
    assert said == {name: document_ids(dataset, name) for name in ("lines", "rows")}
