"""Every example runs as it stands there, and prints what its docstring says."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bamba.trainer.observe.loss_curve import draw_losses, loss_parts
from tests.examples.running import EXAMPLES, environment, run

FILES = sorted(EXAMPLES.glob("*.py"))
OURS = {"bamba_data", "loader", "trainer", "pipelines"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_short_says_how_to_run_it_and_uses_public_names_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    said = ast.get_docstring(tree) or ""
    assert text.count("\n") < 60
    assert f"examples/{path.name} " in said and "Prints" in said
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)), node.attr
        if isinstance(node, ast.Import):
            assert not OURS & {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            assert node.module in OURS or (path.stem == "with_torchtitan" and node.module == "loader.torchtitan")


def test_every_example_has_a_row_in_the_table_and_every_row_a_file() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[\w+\.py\]\((\w+\.py)\)", table, re.MULTILINE)) == [path.name for path in FILES]


@pytest.mark.ray
def test_a_dataset_is_built_on_a_laptop_and_looked_into(tmp_path: Path) -> None:
    said = run("build_on_a_laptop", tmp_path, "dataset")
    assert '"verdict": "complete"' in said
    assert re.search(r"books +90 documents, +204,559 tokens, 0 bad records", said)
    assert re.search(r"3 shards of books; moby-dick-\d+ begins with 'CHAPTER \d+", said)


def test_a_bare_loop_reads_the_sources_in_their_weights(demo: Path, tmp_path: Path) -> None:
    said = run("bare_loop", tmp_path, demo)
    assert "rows of each source in 25 batches: {" in said
    assert {"'books': 200", "'fineweb-edu': 100", "'cosmopedia-stories': 100"} <= set(
        re.findall(r"'[\w-]+': \d+", said)
    )
    assert "goes on at row 400, batch 25" in said


def test_other_ranks_go_on_without_a_row_lost_or_twice(demo: Path, tmp_path: Path) -> None:
    first = run("resume_on_other_ranks", tmp_path, demo, "run", ranks=2)
    assert first.startswith("2 ranks read on to row 120")
    second = run("resume_on_other_ranks", tmp_path, demo, "run", ranks=1)
    assert second.startswith("1 ranks read on to row 240")
    lines = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    assert {line["world_size"] for line in lines} == {1, 2}
    assert sorted(row for line in lines for row in line["rows"]) == list(range(240))


def test_a_mix_is_changed_in_flight(demo: Path, tmp_path: Path) -> None:
    said = run("change_the_mix", tmp_path, demo, "run")
    shares = [float(share) for share in re.findall(r"books in batches \d+ to \d+: +([\d.]+)", said)]
    assert shares == pytest.approx([0.75, 0.62, 0.38, 0.25], abs=0.02)
    assert "now at row 1,664: 50 batches of 32 rows, and 64 rows that were skipped" in said
    kinds = [entry["kind"] for entry in json.loads((tmp_path / "run" / "plan.json").read_text())["entries"]]
    assert kinds == ["mix", "ramp", "skip"]


def test_lightning_resumes_at_the_next_row(demo: Path, tmp_path: Path) -> None:
    said = run("with_lightning", tmp_path, demo, "run")
    assert "to step 4: rows 0 to 31, loss " in said
    assert "to step 8: rows 32 to 63, loss " in said
    assert [path.name for path in tmp_path.iterdir()] == ["cache", "run"]


@pytest.mark.costly
def test_accelerate_resumes_at_the_next_row_on_two_ranks(demo: Path, tmp_path: Path) -> None:
    assert "rank 0 of 1: rows 0 to 63, loss " in run("with_accelerate", tmp_path, demo, "run")
    assert re.search(r"rank 0 of 2: rows 6[4-7] to 12\d, loss ", run("with_accelerate", tmp_path, demo, "run", ranks=2))


def test_the_trainer_of_transformers_resumes_at_the_next_row(demo: Path, tmp_path: Path) -> None:
    said = run("with_transformers", tmp_path, demo, "run")
    assert "to step 4: rows 0 to 31\n" in said
    assert "to step 8: rows 32 to 63\n" in said


@pytest.mark.costly
def test_a_training_is_killed_and_resumed_on_two_ranks_and_its_export_opens_in_transformers(
    demo: Path, tmp_path: Path
) -> None:
    said = run("train_kill_resume", tmp_path, demo, "run", 12)
    assert re.search(r"killed after step \d+; the same command goes on with two ranks", said)
    twice = re.findall(r"step \d+: loss ([\d.]+), done again ([\d.]+)", said)
    assert twice and all(float(before) == pytest.approx(float(again), rel=1e-3) for before, again in twice)
    assert re.search(r"loss 10\.\d+ at step 1, [89]\.\d+ at step 12", said)
    _the_curve_has_both_parts(tmp_path / "run", redone=len(twice))

    said = run("export_to_transformers", tmp_path, "run", "hf-model")
    assert re.search(r"model-00001-of-00001.safetensors +[\d,]+ bytes", said)
    assert "BambaForCausalLM of 3,281,700 parameters" in said
    assert "'Call me Ishmael. Some years ago" in said


def _the_curve_has_both_parts(run_folder: Path, redone: int) -> None:
    first, second = loss_parts(run_folder)
    assert first[0][0] == 1 and second[-1][0] == 12 and len(first) + len(second) == 12 + redone
    draw_losses([first, second], run_folder / "loss.png")
    assert (run_folder / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.costly
def test_the_demo_of_the_trainer_ends_with_a_curve(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.demo", str(demo), "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r"loss 10\.\d+ -> [4-7]\.\d+ in 80 steps; the curve of both parts: run/loss\.png", done.stderr)
    assert [len(part) >= 40 for part in loss_parts(tmp_path / "run")] == [True, True]
    assert (tmp_path / "run" / "loss.png").is_file()
