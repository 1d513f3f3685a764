"""All that is measured on GPUs, one command after the other, the most wanted first: for an hour that has an end.

    python -m benchmarks.gpu_report [--out FOLDER] [--gpus 1|2] [--seconds 1500] [--only NAME,…] [--list] [--small]

What a command prints goes to FOLDER/NAME.txt as it comes; here stands a line for each: how it ended and how long it
took. One that fails or runs past its time takes nothing from the next; none begins that might end after `--seconds`.
`--list` only prints them: the commands of the table in docs/training.md. `--small` runs each that a CPU can run, on
models of a few layers: a dry run before a GPU is paid for. Exit code 1 where one failed; 2 where there are fewer GPUs
than `--gpus` says, or where `--only` names what there is not or what would not run.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.gpus import too_few

ALONE = "-m benchmarks.trainer alone"
SMALL_ALONE = f"{ALONE} --recipe tiny-cpu model.vocab_size=512 compute.compile=false compute.dtype=bfloat16"
TWO_FLOAT8 = f"{ALONE} compute.shard_ranks=1 compute.float8=tensorwise"
ROW = "-m benchmarks.context row bamba-9b-phase1 compute.recompute=full"
SMALL_ROW = "-m benchmarks.context row tiny-cpu compute.recompute=full --small --steps 2"
MICRO = "data.batch_rows=8 compute.micro_rows=1"


@dataclass(frozen=True, slots=True)
class Measurement:
    """`command` is for python; `small` is its dry run, None where only a GPU can. Of `ranks` processes, if several.
    `own_gpus`: so many for processes that it starts itself."""

    name: str
    seconds: int
    command: str
    small: str | None
    ranks: int = 1
    own_gpus: int = 1

    @property
    def gpus(self) -> int:
        return max(self.ranks, self.own_gpus)

    def argv(self, folder: Path, *, small: bool) -> list[str]:
        words = ((self.small or "") if small else self.command).format(folder=folder).split()
        return processes.command(*words, ranks=self.ranks)


MEASUREMENTS = [
    Measurement("kernel-tests", 600, "-m tests.trainer.kernels", "-m tests.trainer.kernels -k swiglu"),
    Measurement("float8-casts", 120, "-m benchmarks.float8_casts", "-m benchmarks.float8_casts --small"),
    Measurement("step-bfloat16", 150, ALONE, SMALL_ALONE),
    Measurement("step-float8", 150, f"{ALONE} compute.float8=tensorwise", None),
    Measurement("step-float8-kernel", 150, f"{ALONE} compute.float8=tensorwise compute.float8_casts=kernel", None),
    Measurement("step-8-micro-batches", 200, f"{ALONE} {MICRO}", f"{SMALL_ALONE} compute.micro_rows=1"),
    Measurement("kernels", 200, "-m benchmarks.kernels --shapes 2x4096,1x32768 --only check,time", None),
    Measurement(
        "checkpoint",
        200,
        "-m benchmarks.checkpoint {folder}/disk --gigabytes 16",
        "-m benchmarks.checkpoint {folder}/disk --small",
    ),
    Measurement("decode", 240, "-m benchmarks.decode --batches 1x1024,8x1024,64x1024,16x16384,64x16384", None),
    Measurement(
        "decode-curve",
        300,
        "-m benchmarks.decode --curve --out {folder}/curve.jsonl",
        "-m benchmarks.decode --curve --device cpu --memory-gb 1 --recipe tiny-cpu --outs 64,128",
    ),
    Measurement("row-exchange", 200, "-m pytest tests/trainer/test_row_exchange.py -k gpu_to_gpu -q", None, own_gpus=2),
    Measurement(
        "parts-parity", 150, "-m benchmarks.context parity", "-m benchmarks.context parity --tokens 256", ranks=2
    ),
    Measurement(
        "parts-speed",
        240,
        "-m benchmarks.context speed bamba-3b data.row_tokens=32768",
        "-m benchmarks.context speed tiny-cpu --small --steps 2",
        ranks=2,
    ),
    Measurement("one-row", 200, f"{ROW} data.row_tokens=131072 --steps 2", SMALL_ROW, ranks=2),
    Measurement(
        "one-row-offload",
        400,
        f"{ROW} data.row_tokens=262144 compute.offload_residuals=true --steps 2",
        f"{SMALL_ROW} compute.offload_residuals=true",
        ranks=2,
    ),
    Measurement("two-bfloat16", 200, f"{ALONE} compute.shard_ranks=1", None, ranks=2),
    Measurement("two-float8", 200, TWO_FLOAT8, None, ranks=2),
    Measurement("two-float8-kernel", 200, f"{TWO_FLOAT8} compute.float8_casts=kernel", None, ranks=2),
    Measurement(
        "checkpoint-two",
        400,
        "-m benchmarks.checkpoint_step bamba-9b-phase1 {folder}/disk data.batch_rows=2 compute.micro_rows=2",
        "-m benchmarks.checkpoint_step tiny-cpu {folder}/disk --disk-gigabytes 0.1",
        ranks=2,
    ),
]


def wanted(options: argparse.Namespace) -> list[Measurement]:
    """Of those that were asked for, what these GPUs, or a CPU, can run. `ValueError` for a name that would not run."""
    names = options.only.split(",") if options.only else [one.name for one in MEASUREMENTS]
    if unknown := set(names) - {one.name for one in MEASUREMENTS}:
        raise ValueError(f"--only: there is no {', '.join(sorted(unknown))}; --list shows what there is")
    able = [one for one in MEASUREMENTS if (one.small is not None if options.small else one.gpus <= options.gpus)]
    if options.only and (idle := set(names) - {one.name for one in able}):
        why = "no CPU can" if options.small else f"--gpus {options.gpus} is too few"
        raise ValueError(f"--only: {', '.join(sorted(idle))} would not run: {why}")
    return [one for one in able if one.name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new folder of the system's for such without it")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1500.0, help="that there are")
    parser.add_argument("--only", help="of these names")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    try:
        chosen = wanted(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if options.list:
        for one in chosen:
            print(f"{one.name:22} {' '.join(['python', *one.argv(Path('FOLDER'), small=options.small)[1:]])}")
        return 0
    if not options.small and (why := too_few(options.gpus, "--gpus", "--small runs what a CPU can")):
        parser.exit(2, f"{parser.prog}: {why}\n")
    folder = options.out or Path(tempfile.mkdtemp(prefix="gpu-report-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"into {folder}", flush=True)
    ends, failed = time.monotonic() + options.seconds, False
    for one in chosen:
        left = ends - time.monotonic()
        if left < one.seconds and not options.small:
            print(f"{one.name:22} not begun: {left:.0f} s are left, it may take {one.seconds}", flush=True)
            continue
        with (folder / f"{one.name}.txt").open("w") as file:
            end = processes.ended(one.argv(folder, small=options.small), min(one.seconds, left), file)
        failed |= end.code != 0
        how = {0: "done", processes.LATE: "ran past its time"}.get(end.code, f"FAILED, exit code {end.code}")
        print(f"{one.name:22} {how}, {end.seconds:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
