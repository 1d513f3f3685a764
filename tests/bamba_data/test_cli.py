"""The manifest commands: what they print, as text and as JSON, and the exit codes that scripts rely on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.conformance import Certificate
from pipelines.cli import app, run
from tests.building import build
from tests.corpora import records, write_jsonl
from tests.forging import Forger


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Answer]


@pytest.fixture
def bamba(capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> Answer:
        code = run(app, [str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return command


# -- show


def test_show_has_licences_digests_and_counts(tiny: Path, bamba: Command) -> None:
    text = bamba("show", tiny).out
    dataset = open_dataset(str(tiny))
    manifest = dataset.manifest
    for wanted in (
        *(manifest.digest, manifest.tokenizer.sha256, "50,280 ids as <u2", "version 1", dataset.version.published_at),
        *("12,853 tokens in 62 documents", "of 65 read", "1 bad_json dead-lettered", "1 empty_text dropped"),
        *("CC0-1.0: unstated", "unstated: [b]us[/b]", "6 shards, 11 blocks, 27.3 kB from 3 files of inputs"),
        *("gigatoken", "certified equal to tokenizers", "0 parts redone"),
    ):
        assert wanted in text
    assert "dataset=lines" not in text


@pytest.mark.parametrize("command", ["show", "stats", "verify", "trace"])
def test_a_dataset_is_named_as_people_type_it(tiny: Path, bamba: Command, command: str) -> None:
    document = ["--document", "lines:doc-1"] if command == "trace" else []
    digest = open_dataset(str(tiny)).manifest.digest
    plain = bamba(command, tiny, *document).out
    for typed in ([f"{tiny}/"], [f"{tiny}@1"], [f"{tiny}@{digest[:12]}"], [tiny, "--version", "1"]):
        assert bamba(command, *typed, *document) == (0, plain, "")
    assert bamba(command, f"{tiny}@7", *document).code == 2


def test_two_versions_of_a_dataset_are_compared_by_their_names(tiny: Path, bamba: Command) -> None:
    assert bamba("diff", f"{tiny}@1", f"{tiny}/").out == "the same dataset\n"


def test_show_lists_every_shard_if_asked(tiny: Path, bamba: Command) -> None:
    text = bamba("show", tiny, "--shards").out
    for shard in open_dataset(str(tiny)).shards.iter_rows(named=True):
        assert shard["path"] in text and shard["sha256"][:16] in text


def test_show_says_what_was_left_out(tiny: Path, tmp_path: Path, certificate: Certificate, bamba: Command) -> None:
    quarantine = ["bad_input.quarantine=['lines/1.json.gz']"]
    build(tmp_path / "out", certificate, str(tiny.parent / "tiny.yaml"), quarantine)
    assert "1 files left out (quarantined)" in bamba("show", tmp_path / "out").out


def test_show_as_json_is_the_manifest_with_its_version(tiny: Path, bamba: Command) -> None:
    dataset = open_dataset(str(tiny))
    found = bamba("show", tiny, "--json", "--shards").json
    assert found["digest"] == dataset.manifest.digest
    assert found["manifest"] == json.loads(dataset.manifest.data)
    assert found["version"]["number"] == 1
    assert len(found["shards"]) == 9


def test_an_older_version_can_be_shown(tiny_copy: Path, certificate: Certificate, bamba: Command) -> None:
    first = bamba("show", tiny_copy, "--json").json["digest"]
    write_jsonl(tiny_copy.parent / "inputs/9.json.gz", records(3, 800, text_chars=200))
    recipe = tiny_copy.parent / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("*.json.gz", "9.json.gz"))
    build(tiny_copy, certificate, str(recipe))
    assert bamba("show", tiny_copy, "--json").json["version"]["number"] == 2
    assert bamba("show", tiny_copy, "--json", "--version", 1).json["digest"] == first
    assert "no version 3 (there are: 1, 2)" in bamba("show", tiny_copy, "--version", 3).err


def test_hostile_markup_is_printed_and_not_obeyed(tiny_copy: Path, bamba: Command) -> None:
    forger = Forger(tiny_copy)
    for field in ("license", "attribution", "base", "revision"):
        forger.manifest["sources"][0][field] = f"[/{field}] [link=x]"
    forger.manifest["name"] = "[/bold]"
    forger.manifest["backend"]["certificates"][0]["backend"] = "[/cyan]"
    forger.version["published_at"] = "[/]"
    forger.save()
    answer = bamba("show", tiny_copy, "--shards")
    assert answer.code == 0
    assert "[/license] [link=x]: [/attribution] [link=x]" in answer.out
    shutil.rmtree(tiny_copy / "dataset=lines")
    assert bamba("verify", tiny_copy).code == 5


# -- stats


def test_stats_prints_every_source_and_draws(tiny: Path, tmp_path: Path, bamba: Command) -> None:
    answer = bamba("stats", tiny, "--plot", tmp_path / "lengths.png")
    assert answer.code == 0 and "lines" in answer.out and "8,298" in answer.out and "64.56%" in answer.out
    assert (tmp_path / "lengths.png").stat().st_size > 10_000
    found = bamba("stats", tiny, "--json").json
    assert [(one["source"], one["tokens"]) for one in found] == [("lines", 8298), ("rows", 4555)]
    assert set(found[0]["quantiles"]) == {"0.01", "0.1", "0.25", "0.5", "0.75", "0.9", "0.99"}


# -- verify


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_verify_ends_with_0_where_all_is_sound(tiny: Path, bamba: Command, full: list[str]) -> None:
    answer = bamba("verify", tiny, *full)
    assert answer.code == 0
    assert "SOUND" in answer.out and "9 shards, 17 blocks, 62 documents, 12,853 tokens" in answer.out
    assert ("every byte" in answer.out.replace("--full reads every byte", "")) == bool(full)
    assert bamba("verify", tiny, "--json", *full).json["faults"] == []


def test_verify_ends_with_5_and_names_every_fault(tiny_copy: Path, bamba: Command) -> None:
    gone, cut = sorted((tiny_copy / "dataset=lines").iterdir())[:2]
    gone.unlink()
    cut.write_bytes(b"")
    answer = bamba("verify", tiny_copy)
    assert answer.code == 5
    assert "2 FAULTS" in answer.out and f"fault dataset=lines/{gone.name}: is missing" in answer.out
    answer = bamba("verify", tiny_copy, "--json")
    assert answer.code == 5
    assert {fault["where"] for fault in answer.json["faults"]} == {f"dataset=lines/{p.name}" for p in (gone, cut)}


def test_verify_counts_what_belongs_to_other_versions(tiny_copy: Path, bamba: Command) -> None:
    (tiny_copy / "dataset=lines/other.parquet").write_bytes(b"x")
    answer = bamba("verify", tiny_copy)
    assert answer.code == 0 and "1 objects of other versions, or of none" in answer.out


# -- trace


def test_trace_prints_the_row_upstream_and_that_its_ids_are_the_same(tiny: Path, bamba: Command) -> None:
    for place in (["00001-000-:3"], ["--document", "lines:doc-17"]):
        shard = open_dataset(str(tiny)).shards["path"][2]
        answer = bamba("trace", tiny, *[p.replace("00001-000-:3", f"{shard}:3") for p in place])
        assert answer.code == 0
        for wanted in (f"{shard}:3", "doc-17  of source lines", "inputs/1.json.gz", "row       3", "yes"):
            assert wanted in answer.out
        (one,) = bamba("trace", tiny, *[p.replace("00001-000-:3", f"{shard}:3") for p in place], "--json").json
        assert (one["document_id"], one["row"], one["same"]) == ("doc-17", 3, True)
        assert len(one["tokens"]) > 100 and one["text"] == one["decoded"]


def test_trace_ends_with_0_where_the_upstream_is_gone_and_says_so(
    tiny_copy: Path, certificate: Certificate, bamba: Command
) -> None:
    out = tiny_copy.parent / "out"
    build(out, certificate, str(tiny_copy.parent / "tiny.yaml"))
    moved = tiny_copy.parent / "moved[b]"
    (tiny_copy.parent / "inputs").rename(moved)
    answer = bamba("trace", out, "--document", "lines:doc-1")
    assert answer.code == 0 and "not checked" in answer.out and "decoded" in answer.out
    assert bamba("trace", out, "--document", "lines:doc-1", "--base", f"lines={moved}").out.count("yes") == 1
    answer = bamba("trace", out, "--document", "lines:doc-1", "--base", f"lines={moved}/none")
    assert answer.code == 0 and "moved[b]/none" in answer.out.replace("\n", "")


def test_trace_ends_with_5_where_the_upstream_has_another_text(tiny_copy: Path, tmp_path: Path, bamba: Command) -> None:
    shutil.copytree(tiny_copy.parent / "inputs", tmp_path / "other")
    write_jsonl(tmp_path / "other/0.json.gz", records(14, 50, text_chars=700))
    forger = Forger(tiny_copy)
    forger.tables["files"][0] |= {"sha256": None, "size_bytes": None}
    forger.save()
    answer = bamba("trace", tiny_copy, "--document", "lines:doc-1", "--base", f"lines={tmp_path / 'other'}")
    assert answer.code == 5 and "NO" in answer.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x:1", "--document", "lines:doc-1"],
        ["x"],
        ["nothing:0"],
        ["--document", "doc-1"],
        ["--document", "lines:doc-1", "--base", "lines"],
        ["--document", "lines:doc-1", "--base", "nothing=/x"],
        ["00000-001:99"],
    ],
)
def test_trace_of_no_place_ends_with_2(tiny: Path, bamba: Command, arguments: list[str]) -> None:
    answer = bamba("trace", tiny, *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")


# -- diff and sweep


def test_diff_ends_with_0_for_one_dataset_and_1_for_two(tiny: Path, demo: Path, bamba: Command) -> None:
    assert bamba("diff", tiny, tiny) == Answer(0, "the same dataset\n", "")
    assert bamba("diff", tiny, tiny, "--json").json == []
    answer = bamba("diff", tiny, demo)
    assert answer.code == 1 and "~ name: tiny -> demo" in answer.out
    answer = bamba("diff", tiny, demo, "--json")
    assert answer.code == 1
    assert {"where": "name", "before": "tiny", "after": "demo"} in answer.json


def test_sweep_lists_first_and_removes_when_told(tiny_copy: Path, bamba: Command) -> None:
    orphan = tiny_copy / "dataset=lines/orphan.parquet"
    orphan.write_bytes(bytes(2000))
    assert "0 orphans of 0 B" in bamba("sweep", tiny_copy).out
    answer = bamba("sweep", tiny_copy, "--grace-hours", 0)
    assert answer.code == 0 and "orphan  dataset=lines/orphan.parquet  2.0 kB" in answer.out
    assert "nothing was removed" in answer.out and orphan.exists()
    found = bamba("sweep", tiny_copy, "--grace-hours", 0, "--json").json
    assert found["removed"] == 0 and "dataset=lines/orphan.parquet" in str(found["orphans"])
    answer = bamba("sweep", tiny_copy, "--grace-hours", 0, "--delete")
    assert "removed dataset=lines/orphan.parquet" in answer.out and not orphan.exists()
    assert bamba("verify", tiny_copy, "--full").code == 0


def test_sweep_refuses_while_a_build_runs(tiny_copy: Path, bamba: Command) -> None:
    lease = tiny_copy / "_bamba/leases/abc.json"
    lease.parent.mkdir(exist_ok=True)
    lease.write_bytes(b"{}")
    assert "a build is running" in bamba("sweep", tiny_copy, "--grace-hours", 0).out
    answer = bamba("sweep", tiny_copy, "--grace-hours", 0, "--delete")
    assert answer.code == 2 and "a build is running" in answer.err


# -- at the edge


@pytest.mark.parametrize("command", ["show", "stats", "verify", "trace", "diff", "sweep"])
def test_a_dataset_that_is_not_there_ends_with_2(tmp_path: Path, bamba: Command, command: str) -> None:
    arguments = {"trace": ["x:0"], "diff": [tmp_path / "none"]}.get(command, [])
    answer = bamba(command, tmp_path / "none", *arguments)
    assert answer.code == 2 and str(tmp_path / "none") in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "stats", "verify", "diff", "sweep"])
def test_a_damaged_manifest_ends_with_5(tiny_copy: Path, bamba: Command, command: str) -> None:
    (path,) = (tiny_copy / "_bamba/manifests").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    answer = bamba(command, tiny_copy, *([tiny_copy] if command == "diff" else []))
    assert answer.code == 5 and path.name in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize("arguments", [["nothing"], ["show"], ["show", "a", "b"], ["show", "x", "--what"]])
def test_wrong_arguments_end_with_2(bamba: Command, arguments: list[str]) -> None:
    answer = bamba(*arguments)
    assert answer.code == 2 and answer.err.startswith("error: ")


def test_a_file_that_cannot_be_written_ends_with_2_and_one_that_does_not_fit_with_4(
    tiny: Path, bamba: Command, tmp_path: Path
) -> None:
    answer = bamba("stats", tiny, "--plot", "/nowhere/at/all.png")
    assert answer.code == 2 and "/nowhere/at/all.png" in answer.err
    answer = bamba("stats", tiny, "--plot", tmp_path / "lengths.xyz")
    assert answer.code == 2 and "lengths.xyz" in answer.err and ".png" in answer.err
    (tmp_path / "full.png").symlink_to("/dev/full")
    answer = bamba("stats", tiny, "--plot", tmp_path / "full.png")
    assert answer.code in (2, 4) and answer.err.startswith("error: ")


def test_a_url_with_credentials_ends_with_2_and_does_not_print_them(bamba: Command) -> None:
    answer = bamba("show", "s3://key:canary@bucket/x")
    assert answer.code == 2 and "canary" not in answer.err + answer.out


def test_a_reader_that_goes_away_is_no_error(tiny: Path) -> None:
    command = f"{sys.executable} -m pipelines.cli show {tiny} --shards --json | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{\n  "versi', "")


MODULES = """
import sys
from pipelines.cli import app, run
code = run(app, sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def modules(*arguments: object) -> set[str]:
    """What a command imports, in a process of its own."""
    command = [sys.executable, "-c", MODULES, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_show_imports_neither_ray_nor_torch_nor_polars(tiny: Path) -> None:
    assert {"bamba_data", "rich"} <= (found := modules("show", tiny))
    assert not found & {"ray", "torch", "polars", "pyarrow", "numpy", "pandas", "tokenizers", "requests", "s3fs"}


@pytest.mark.parametrize("command", ["verify", "stats", "trace", "diff", "sweep"])
def test_no_manifest_command_imports_ray_or_torch(tiny: Path, command: str) -> None:
    arguments = {"trace": ["--document", "lines:doc-1"], "diff": [tiny]}.get(command, [])
    assert not modules(command, tiny, *arguments) & {"ray", "torch", "datasets"}
