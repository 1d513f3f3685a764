"""How our own build is run by the benchmarks.

`ours_command(inputs, out)` returns the command line that turns `inputs.files` into token shards
under `out`. The function itself is not timed: it writes a recipe into `inputs.scratch` (empty, one
per run). The process it names must

* read exactly `inputs.files` (local paths, `inputs.format` is json.gz, jsonl.zst or parquet),
* use `inputs.tokenizer.path` and leave its shards anywhere below `out`, which does not exist yet,
  and nothing else below it (every byte there counts as output),
* exit 0 only when the dataset is published, and leave no process behind,
* keep to one worker: it is pinned to one core and inherits one-thread settings, but Ray would
  still count the machine's cores, so say num_cpus=1.

`count` points at `peers/count_parquet.py`, which reads a `tokens` column (list, or binary of
little-endian ids) from every parquet file below `out`; documents without tokens are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.command import RUNNERS, Command, RecipeInputs, Tool, runner_arguments


def count_parquet(inputs: RecipeInputs, out: Path) -> tuple[str, ...]:
    """Counts our shards with the Python that runs the benchmark; the report is scratch/count.json."""
    script = str(RUNNERS / "count_parquet.py")
    report = inputs.scratch / "count.json"
    return (sys.executable, script, "count", *runner_arguments(inputs, out, report))


def ours_command(recipe_inputs: RecipeInputs, out: Path) -> Command:
    """A whole build: lock, plan, certificate, Ray on one core, shards, manifest, publish, verify."""
    folder = recipe_inputs.files[0].parent
    if any(file.parent != folder for file in recipe_inputs.files):
        raise SystemExit("the benchmark's files must lie in one folder")
    recipe = {
        "name": "benchmark",
        "tokenizer": {"url": str(recipe_inputs.tokenizer.path)},
        "corpora": [
            {
                "corpus": "folder",
                "name": "texts",
                "base": str(folder),
                "form": "parquet" if recipe_inputs.format == "parquet" else "jsonl",
                "files": [file.name for file in recipe_inputs.files],
            }
        ],
    }
    path = recipe_inputs.scratch / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return Command(
        argv=(sys.executable, "-m", "pipelines.cli", "build", str(path), "--out", str(out), "--workers", "1"),
        count=count_parquet(recipe_inputs, out),
        report=recipe_inputs.scratch / "count.json",
        env={"RAY_AUTH_MODE": "disabled"},
    )


OURS = (Tool("bamba-data", ours_command, ("json.gz", "jsonl.zst", "parquet"), fast=True),)
