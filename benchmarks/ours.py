"""How our own build is run by the benchmarks: the only file to fill in.

`ours_command(inputs, out)` returns the command line that turns `inputs.files` into token shards
under `out`, or None while there is none. The function itself is not timed: it may write a recipe
file into `inputs.scratch` (empty, one per run). The process it names must

* read exactly `inputs.files` (local paths, `inputs.format` is json.gz, jsonl.zst or parquet),
* use `inputs.tokenizer.path` and leave its shards anywhere below `out`, which does not exist yet,
  and nothing else below it (every byte there counts as output),
* exit 0 only when the dataset is published, and leave no process behind,
* keep to one worker: it is pinned to one core and inherits one-thread settings, but Ray would
  still count the machine's cores, so say num_cpus=1.

`count` points at `peers/count_parquet.py`, which reads a `tokens` column (list, or binary of
little-endian ids) from every parquet file below `out`; documents without tokens are left out.
Example:

    recipe = inputs.scratch / "recipe.yaml"
    recipe.write_text(...)
    bamba_data = str(Path(sys.executable).parent / "bamba-data")
    return Command(
        argv=(bamba_data, "build", str(recipe), "--out", str(out)),
        count=count_parquet(inputs, out),
        report=inputs.scratch / "count.json",
        env={"RAY_AUTH_MODE": "disabled"},
    )
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.command import RUNNERS, Command, RecipeInputs, Tool, runner_arguments


def count_parquet(inputs: RecipeInputs, out: Path) -> tuple[str, ...]:
    """Counts our shards with the Python that runs the benchmark; the report is scratch/count.json."""
    script = str(RUNNERS / "count_parquet.py")
    report = inputs.scratch / "count.json"
    return (sys.executable, script, "count", *runner_arguments(inputs, out, report))


def ours_command(recipe_inputs: RecipeInputs, out: Path) -> Command | None:
    """None until the build command exists; the benchmark then runs the peers alone."""
    return None


OURS = (Tool("bamba-data", ours_command, ("json.gz", "jsonl.zst", "parquet"), fast=True),)
