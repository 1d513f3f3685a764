"""A run is killed, goes on with half of its ranks, is killed again, and ends on all: were the same tokens counted?

    python -m benchmarks.scale_resume DATASET --ranks 8 [--recipe NAME] [A.B=VALUE …]      one JSON line

Beside it runs one that nobody disturbs. Equal must be what each has learned of every source after every step, and the
losses to rounding, since other ranks sum in another order. Killed is one rank, by SIGKILL, while steps are taken; its
launcher ends the others.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import processes

STEPS = 24
EVERY = 4
KILLS = 10, 18  # after these steps
SECONDS = 240


def command(data: str, out: Path, ranks: int, recipe: str, changes: list[str]) -> list[str]:
    own = [f"schedule.steps={STEPS}", f"checkpoints.every_steps={EVERY}", "log.every_steps=1"]
    words = [word for change in [*own, *changes] for word in ("--set", change)]
    told = ("-m", "bamba.trainer", "--recipe", recipe, "--data", data, "--out", str(out), *words)
    return processes.by_torchrun(*told, ranks=ranks)


def steps_of(out: Path) -> dict[int, dict[str, Any]]:
    """The line of each step, as last written."""
    file = out / "metrics.jsonl"
    whole = (
        [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []
    )
    return {line["step"]: line for line in map(json.loads, whole) if "loss" in line}


def killed_after(step: int, words: list[str], out: Path) -> None:
    """Run until `step` is on record, then kill one rank; the launcher must end in an error.

    Raises:
        RuntimeError: The run ended before that, or did not end after it.
    """
    log = out.parent / f"{out.name}-{step}.log"
    with log.open("w") as said:
        launcher = subprocess.Popen(words, stdout=said, stderr=said, text=True)
        ends = time.monotonic() + SECONDS
        try:
            while max(steps_of(out), default=0) < step:
                if launcher.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"step {step} did not come: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            ranks = [one for one in psutil.Process(launcher.pid).children() if "bamba.trainer" in one.cmdline()]
            ranks[-1].kill()
            if launcher.wait(timeout=SECONDS) == 0:
                raise RuntimeError("a launcher that lost a rank ended as if all was well")
        finally:
            processes.stop(launcher)


def compare(quiet: dict[int, dict[str, Any]], disturbed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """How many steps counted other tokens than the quiet run, and how far the farthest loss is from it."""

    def counted(lines: dict[int, dict[str, Any]]) -> list[tuple[int, dict[str, int]]]:
        tokens = {step: {k: v for k, v in line.items() if k.startswith("tokens/")} for step, line in lines.items()}
        return sorted(tokens.items(), key=lambda one: one[0])

    losses = [abs(disturbed[step]["loss"] / line["loss"] - 1) for step, line in quiet.items() if step in disturbed]
    equal = counted(quiet) == counted(disturbed)
    return {"steps": len(disturbed), "ledgers_equal": equal, "farthest_loss": max(losses)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("changes", nargs="*", metavar="A.B=VALUE")
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--recipe", default="tiny-cpu")
    options = parser.parse_intermixed_args()
    if options.ranks < 2 or options.ranks % 2:
        parser.error(f"--ranks {options.ranks}: half of them go on, so an even number")
    changes = [f"data.batch_rows={max(8, options.ranks)}", "compute.micro_rows=1", *options.changes]
    with tempfile.TemporaryDirectory() as folder:
        quiet, out = Path(folder) / "quiet", Path(folder) / "run"

        def words(place: Path, ranks: int) -> list[str]:
            return command(options.dataset, place, ranks, options.recipe, changes)

        done = subprocess.run(words(quiet, options.ranks), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        killed_after(KILLS[0], words(out, options.ranks), out)
        killed_after(KILLS[1], words(out, options.ranks // 2), out)
        begun = time.perf_counter()
        done = subprocess.run(words(out, options.ranks), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        last = time.perf_counter() - begun
        found = compare(steps_of(quiet), steps_of(out))
    known = {"benchmark": "scale resume", "ranks": [options.ranks, options.ranks // 2, options.ranks]}
    print(json.dumps({**known, **found, "last_start_seconds": round(last, 1)}))
    return 0 if found["ledgers_equal"] and found["steps"] == STEPS else 1


if __name__ == "__main__":
    sys.exit(main())
