"""Does it scale over the GPUs of one host: one command a case, a JSON line each, and tables of all of them.

    python -m benchmarks.scale --list [--ranks N]              the cases that the GPUs here, or N, allow
    python -m benchmarks.scale --out FILE [PATTERN …]          run those whose name fits, in the order of the list
    python -m benchmarks.scale --report FILE [--node-gbits N]  tables, the fit, and what it says of 24 nodes
    python -m benchmarks.scale --out FILE --small              all of it with tiny models, on two processes of a CPU

Weak scaling gives each GPU two rows of 4,096 tokens of the 9.78 B model, whatever the number of ranks: whole copies of
the model (in half the memory), sharded over all ranks, and sharded within groups of which each has a copy. Strong
scaling shares 32 rows of the 1.8 B model. Context parallelism shares one row. The resume case trains on a dataset
(`--data`) on all ranks, kills one, goes on with half of them, kills one, and ends on all; a run that nobody disturbed
must have counted the same tokens of each source at every step.
"""

import argparse
import fnmatch
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import processes
from benchmarks.collectives import Ring, Taken, fit, step_on_nodes
from benchmarks.gpus import too_few
from benchmarks.recipes import TINY

SECONDS = 540
COUNTS = (1, 2, 4, 8)
NODES = (1, 2, 4, 8, 24)
CONTEXT_TOKENS = 65_536  # a GPU
STRONG_ROWS = 32
FULL = "optimizer.memory=full"
FLOAT8 = "compute.float8=tensorwise"
WITHOUT = "--small is the dry run, on a CPU; --list --ranks N shows the cases of N"


@dataclass(frozen=True, slots=True)
class Case:
    """`module` and what it is told, on `ranks` processes: of torchrun, or `own_ranks`, which it starts itself."""

    name: str
    ranks: int
    module: str
    words: tuple[str, ...] = ()
    own_ranks: bool = False


def cases(most: int, data: str | None, small: bool) -> list[Case]:
    """All of them on 1 to `most` ranks, those that a scarce machine is asked for first in front."""
    counts = [count for count in COUNTS if count <= most]
    found = [Case(f"health / {most}", most, "trainer.health")]
    bytes_ = ("--most-bytes", str(1 << 20)) if small else ()
    found += [Case(f"collectives / {count}", count, "benchmarks.collectives", bytes_) for count in counts[1:]]
    for dtype, words in (("bfloat16", ()), ("float8", (FLOAT8,))):
        if small and words:
            continue  # no CPU has it
        for layout, ranks, changes in layouts(counts):
            told = (*words, *changes, *(TINY if small else ()))
            found.append(Case(f"weak {dtype} {layout} / {ranks}", ranks, "benchmarks.trainer", ("alone", *told)))
    if most > 1:
        long = (f"data.row_tokens={CONTEXT_TOKENS * most}", "compute.recompute=full")
        tiny = ("data.row_tokens=192", "compute.compile=false", "compute.dtype=float32", "--small")
        told = ("row", "bamba-9b-phase1", *(tiny if small else long), "--steps", "2")
        found.append(Case(f"context / {most}", most, "benchmarks.context", told))
    for count in counts:
        rows = (4 if small else STRONG_ROWS) // count
        told = (f"data.batch_rows={rows}", f"compute.micro_rows={min(4, rows)}", *(TINY if small else ()))
        words = ("alone", "--recipe", "bamba-1.8b", "optimizer.memory=full", *told)
        found.append(Case(f"strong / {count}", count, "benchmarks.trainer", words))
    if data and most > 1:
        told = (data, "--ranks", str(most))
        found.append(Case(f"resume / {most}", most, "benchmarks.scale_resume", told, own_ranks=True))
    return found


def layouts(counts: list[int]) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """How the model lies on so many ranks: a name, the ranks, and what is changed for it."""
    for count in counts:
        yield "whole", count, ("compute.shard_ranks=1",)
    for count in counts[1:]:
        yield "sharded", count, (FULL,)
    for group in counts[1:]:
        for count in (count for count in counts if count > group):
            yield f"hybrid {group}", count, (FULL, f"compute.shard_ranks={group}")


def run(case: Case) -> dict[str, Any]:
    """One case in processes of its own; what it said."""
    words = processes.command("-m", case.module, *case.words, ranks=1 if case.own_ranks else case.ranks)
    end = processes.ended(words, SECONDS)
    lines, errors = end.said.strip().splitlines(), end.errors.strip().splitlines()
    measured = [line for line in lines if line.startswith("{")]
    found: dict[str, Any] = {
        "case": case.name,
        "ranks": case.ranks,
        "passed": end.code == 0,
        "seconds": round(end.seconds, 1),
    }
    if end.code == processes.LATE:
        errors.append(f"more than {SECONDS} s")
    if end.code:
        return found | {"exit_code": end.code, "stderr": errors[-12:]}
    return found | ({"measured": json.loads(measured[-1])} if measured else {"said": lines or errors[-case.ranks :]})


# ---- tables


def report(lines: list[dict[str, Any]], node_gbits: float) -> str:
    """Markdown of what was measured; the last line of a case counts."""
    by_case = {line["case"]: line for line in lines}
    good = {name: line["measured"] for name, line in by_case.items() if line["passed"] and "measured" in line}
    parts = [weak_table(good), strong_table(good), collective_table(good, node_gbits)]
    for kind in ("context", "resume", "health"):
        for name, line in by_case.items():
            if name.startswith(f"{kind} /") and line["passed"]:
                parts.append(f"{name}: {json.dumps(line.get('measured', line.get('said')))}")
    failed = [f"{name} FAILED: {(line['stderr'] or ['?'])[-1]}" for name, line in by_case.items() if not line["passed"]]
    return "\n\n".join(part for part in [*parts, *failed] if part)


def floor_seconds(layout: str, ranks: int, parameters: int, ring: Ring) -> float:
    """What a step's collectives take if nothing else uses the links: the weights, bfloat16, are gathered for forward
    and backward, and gradients summed in float32; whole copies sum bfloat16 ones."""
    if layout == "whole":
        return ring.seconds("all_reduce", ranks, 2 * parameters)
    group = ranks if layout == "sharded" else int(layout.removeprefix("hybrid "))
    gathered, summed = ring.seconds("all_gather", group, 2 * parameters), 4 * parameters
    apart = ring.seconds("all_reduce", ranks // group, summed / group)
    return 2 * gathered + ring.seconds("reduce_scatter", group, summed) + apart


def ring_of(good: dict[str, dict[str, Any]]) -> tuple[Ring, int] | None:
    """The fit of all collectives that were timed, and of how many; None if none was."""
    taken = [
        Taken(row["kind"], one["ranks"], row["bytes"], row["seconds"])
        for name, one in good.items()
        if name.startswith("collectives /")
        for row in one["collectives"]
    ]
    return (fit(taken), len(taken)) if taken else None


def weak_table(good: dict[str, dict[str, Any]]) -> str:
    """Tokens a second and GPU, beside one GPU's with the whole model; milliseconds of a step's collectives, beside the
    least that the host's links allow."""
    fitted = ring_of(good)
    rows = {}
    for name, found in good.items():
        if name.startswith("weak "):
            layout, ranks = name.removeprefix("weak ").split(" / ")
            rows.setdefault(layout, {})[int(ranks)] = found
    if not rows:
        return ""
    lines = ["| layout | ranks | tokens/s a GPU | of one GPU's | collectives ms | their floor | gaps ms | memory GiB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for layout, by_ranks in rows.items():
        alone = rows.get(f"{layout.split()[0]} whole", {}).get(1)
        for ranks, found in sorted(by_ranks.items()):
            rate, where = found["tokens_per_second"], found["milliseconds"] or {}
            part = f"{rate / alone['tokens_per_second']:.3f}" if alone else "-"
            least = "-"
            if fitted and ranks > 1:
                kind = layout.split(maxsplit=1)[1]
                least = f"{floor_seconds(kind, ranks, found['parameters'], fitted[0]) * 1000:.1f}"
            told = [layout, ranks, f"{rate:,.0f}", part, where.get("collectives", "-"), least, where.get("gaps", "-")]
            lines.append(_row([*told, _gib(found["memory_gib"])]))
    return "\n".join(lines)


def strong_table(good: dict[str, dict[str, Any]]) -> str:
    """The same rows over more ranks: how many times as fast."""
    found = {int(name.split(" / ")[1]): one for name, one in good.items() if name.startswith("strong /")}
    if not found:
        return ""
    lines = ["| 1.8 B, 32 rows a step, ranks | tokens/s | a GPU, of one alone |", "| ---: | ---: | ---: |"]
    for ranks, one in sorted(found.items()):
        rate = one["tokens_per_second"] * ranks
        part = f"{rate / ranks / found[1]['tokens_per_second']:.3f}" if 1 in found else "-"
        lines.append(_row([ranks, f"{rate:,.0f}", part]))
    return "\n".join(lines)


def collective_table(good: dict[str, dict[str, Any]], node_gbits: float) -> str:
    """The fit, and a step of the sharded model on more nodes by it and by the nodes' links."""
    fitted = ring_of(good)
    if fitted is None:
        return ""
    ring, count = fitted
    lines = [
        f"Collectives of a host: {ring.latency * 1e6:,.1f} us a hop, {ring.bandwidth / 1e9:,.1f} GB/s; the farthest of "
        f"{count} times is {ring.worst:.0%} off."
    ]
    steps = {name: one for name, one in good.items() if name.startswith("weak") and "sharded" in name}
    if not steps:
        return lines[0]
    between = Ring(ring.latency, node_gbits / 8 * 1e9)
    lines += ["", f"By links of {node_gbits:,.0f} Gbit/s a GPU between nodes, {ring.latency * 1e6:,.1f} us a hop:", ""]
    lines += [
        "| step | nodes | between nodes ms | weak scaling, hidden | not hidden |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, one in steps.items():
        seconds = sorted(one["step_seconds"][2:])[len(one["step_seconds"][2:]) // 2]
        for nodes in NODES:
            what = step_on_nodes(seconds, one["parameters"], nodes, between, node_ranks=int(name.split(" / ")[1]))
            scaling = [f"{seconds / what.hidden:.3f}", f"{seconds / what.bare:.3f}"]
            lines.append(_row([name, nodes, f"{what.between_nodes * 1000:,.1f}", *scaling]))
    lines += ["", "Left out: other jobs on the links, ranks that are slow, the feed, checkpoints, lost nodes."]
    return "\n".join(lines)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """What `--out` wrote. Raises ValueError, or OSError, where that is not in the file."""
    found = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise ValueError(f"line {number} is no JSON") from None
        if not isinstance(found[-1], dict) or not {"case", "passed"} <= found[-1].keys():
            raise ValueError(f"line {number} is of no case")
    return found


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _gib(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="of names of cases, as a shell's")
    parser.add_argument("--out", type=Path, help="a file to add the lines to")
    parser.add_argument("--report", type=Path, help="a file of lines to make tables of")
    parser.add_argument("--data", help="a dataset, for the resume case")
    parser.add_argument("--ranks", type=int, help="at most; as many as there are GPUs without it")
    parser.add_argument("--small", action="store_true", help="tiny models, for a CPU")
    parser.add_argument("--node-gbits", type=float, default=400.0, help="between nodes, a GPU")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.report:
        try:
            lines = read_lines(options.report)
        except OSError as error:
            parser.exit(2, f"{parser.prog}: --report {options.report}: {error.strerror}\n")
        except ValueError as error:
            parser.exit(2, f"{parser.prog}: --report {options.report}: not what --out wrote: {error}\n")
        print(report(lines, options.node_gbits))
        return 0
    lists = options.list or not options.out
    most = options.ranks or (2 if options.small else torch.cuda.device_count())
    if not (options.small or (lists and options.ranks)) and (why := too_few(most, "--ranks", WITHOUT)):
        parser.exit(2, f"{parser.prog}: {why}\n")
    if most not in COUNTS:
        parser.error(f"{most} ranks: 1, 2, 4 and 8 are compared; name one by --ranks (--small: on a CPU)")
    wanted = [
        case
        for case in cases(most, options.data, options.small)
        if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in options.patterns)
    ]
    if not wanted:
        parser.error("no case has such a name: --list shows them")
    if lists:
        print("\n".join(f"{case.name}: {case.module} {' '.join(case.words)}" for case in wanted))
        if not options.list:
            print("listed, and none was run: --out FILE runs them", file=sys.stderr)
        return 0
    failed = 0
    for case in wanted:
        found = run(case)
        failed += not found["passed"]
        with options.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{'passed' if found['passed'] else 'FAILED'}  {case.name}  {found['seconds']} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
