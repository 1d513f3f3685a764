"""How fast text files become tokens on disk: ours and every peer, same files, same core, interleaved.

    python -m benchmarks.corpus                       # once: real text
    python -m benchmarks.tokenize_end_to_end          # makes the peers' environments, runs, writes results/

Every round runs every tool once, in an order that changes from round to round, with a yardstick
run between any two: on shared machines a core's speed drifts by up to 2x within minutes, so the
ratio to the yardstick beside a run is the number to keep. Files are read just before each timing.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.command import Command, RecipeInputs, Tokenizer, Tool
from benchmarks.measure import (
    CommandFailed,
    Measured,
    folder_bytes,
    leave_core,
    machine,
    measure,
    one_core_environment,
    warm,
)
from benchmarks.ours import OURS
from benchmarks.peers import CACHE, PEERS, YARDSTICK, peer_command, peer_tool, python_of
from benchmarks.report import MB, NOTES, Check, Row, Shot, Yard, row, table, yard_row

HERE = Path(__file__).parent
TOKENIZER = HERE.parent / "bamba_data" / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
FORMATS = ("json.gz", "jsonl.zst", "parquet")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A folder written by benchmarks.corpus, one of its sets."""

    folder: Path
    name: str
    bytes_of: dict[str, int]

    @classmethod
    def open(cls, folder: Path, name: str) -> Corpus:
        listing = folder / "corpus.json"
        if not listing.exists():
            raise SystemExit(f"{listing}: not there; run python -m benchmarks.corpus first")
        files = json.loads(listing.read_text())["sets"][name]
        return cls(folder.resolve(), name, {f["stem"]: f["text_bytes"] for f in files})

    def stems(self, files: int) -> tuple[str, ...]:
        """The first `files` files; zero means the 20 documents of the start-up run."""
        names = sorted(stem for stem in self.bytes_of if not stem.endswith("-start"))
        if files > len(names):
            raise SystemExit(f"{self.folder}: {len(names)} files of {self.name}, not {files}")
        return tuple(names[:files]) if files else (f"{self.name}-start",)

    def paths(self, files: int, format: str) -> tuple[Path, ...]:
        return tuple(self.folder / f"{stem}.{format}" for stem in self.stems(files))

    def text_bytes(self, files: int) -> int:
        return sum(self.bytes_of[stem] for stem in self.stems(files))


@dataclass(slots=True)
class Bench:
    """The settings of one benchmark and what it has measured so far."""

    corpus: Corpus
    tokenizer: Tokenizer
    format: str
    core: int
    limit_seconds: float
    yard_mb: float
    check_mb: float
    scratch: Path
    yard_python: Path
    yards: list[Yard] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    checks: dict[tuple[str, int], Check] = field(default_factory=dict)
    references: dict[tuple[int, bool], Counter[str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def format_for(self, tool: Tool) -> str:
        """The wanted format, or the tool's own first where it cannot read that: same documents either way."""
        return self.format if self.format in tool.formats else tool.formats[0]

    @contextmanager
    def inputs(self, files: int, format: str) -> Iterator[RecipeInputs]:
        """Inputs with a scratch folder that is gone afterwards. Short paths: sockets are made in there."""
        folder = Path(tempfile.mkdtemp(prefix="b", dir=self.scratch))
        try:
            yield RecipeInputs(self.corpus.paths(files, format), format, self.tokenizer, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def time(self, command: Command, inputs: RecipeInputs) -> Measured:
        warm((*inputs.files, inputs.tokenizer.path))
        env = one_core_environment(inputs.scratch) | dict(command.env)
        log = inputs.scratch / "log.txt"
        return measure(command.argv, env, self.core, log, self.limit_seconds)

    def yardstick(self, files: int) -> Yard:
        with self.inputs(files, self.format) as inputs:
            out = inputs.scratch / "out"
            megabytes = ("--text-mb", str(self.yard_mb))
            command = peer_command(YARDSTICK, self.yard_python, inputs, out, *megabytes)
            measured = self.time(command, inputs)
            report = json.loads(command.report.read_text())
        yard = Yard(peak_rss_mib=measured.peak_rss_mib, **report)
        self.yards.append(yard)
        return yard

    def reference(self, files: int, strip: bool) -> Counter[str]:
        """The hash of every document, as bare tokenizers encode it."""
        if (files, strip) not in self.references:
            with self.inputs(files, self.format) as inputs:
                extra = ("--strip",) if strip else ()
                out = inputs.scratch / "out"
                command = peer_command(YARDSTICK, self.yard_python, inputs, out, *extra)
                subprocess.run(command.count, check=True)
                report = json.loads(command.report.read_text())
            self.references[files, strip] = Counter(report["hashes"])
        return self.references[files, strip]

    def check(self, tool: Tool, files: int, command: Command) -> Check:
        subprocess.run(command.count, check=True)
        report = json.loads(command.report.read_text())
        hashes = Counter(report["hashes"])
        if self.corpus.text_bytes(files) > self.check_mb * MB:
            return Check(hashes.total(), None, None, report["tokens"], False, report["versions"])
        reference = self.reference(files, strip=False)
        stripped = tool.strips and hashes != reference
        if stripped:
            reference = self.reference(files, strip=True)
        return Check(
            documents=hashes.total(),
            reference_documents=reference.total(),
            same=(hashes & reference).total(),
            tokens=report["tokens"],
            stripped=stripped,
            versions=report["versions"],
        )

    def start_up(self, tool: Tool) -> float:
        """Seconds for 20 documents, the second of two runs: the first warms the tool's own files."""
        seconds = 0.0
        for _ in range(2):
            with self.inputs(0, self.format_for(tool)) as inputs:
                out = inputs.scratch / "out"
                command = tool.command(inputs, out)
                assert command is not None
                seconds = self.time(command, inputs).wall_seconds
        return seconds

    def shoot(self, tool: Tool, files: int, turn: int, before: Yard) -> Yard:
        """Measure one tool; returns the yardstick taken after it."""
        start = self.start_up(tool)
        with self.inputs(files, self.format_for(tool)) as inputs:
            out = inputs.scratch / "out"
            command = tool.command(inputs, out)
            assert command is not None
            measured = self.time(command, inputs)
            after = self.yardstick(files)
            if (tool.name, files) not in self.checks:
                self.checks[tool.name, files] = self.check(tool, files, command)
            self.shots.append(
                Shot(
                    tool=tool.name,
                    format=inputs.format,
                    files=files,
                    round=turn,
                    text_bytes=self.corpus.text_bytes(files),
                    start_text_bytes=self.corpus.text_bytes(0),
                    wall_seconds=measured.wall_seconds,
                    start_seconds=start,
                    cpu_seconds=measured.cpu_seconds,
                    peak_rss_mib=measured.peak_rss_mib,
                    peak_pss_mib=measured.peak_pss_mib,
                    output_bytes=folder_bytes(out),
                    left_behind=measured.left_behind,
                    yard_mb_per_second=(before.mb_per_second + after.mb_per_second) / 2,
                )
            )
        return after

    def run(self, entries: Sequence[tuple[Tool, int]], rounds: int) -> None:
        """All rounds; a tool that fails is noted and left out of the rest."""
        yard = self.yardstick(entries[0][1])
        for turn in range(rounds):
            order = list(entries)
            random.Random(turn).shuffle(order)
            for tool, files in order:
                if tool.name in self.failures:
                    continue
                try:
                    yard = self.shoot(tool, files, turn, yard)
                except (CommandFailed, subprocess.CalledProcessError) as error:
                    self.failures[tool.name] = str(error)
                    print(f"FAILED {tool.name}: {error}", file=sys.stderr, flush=True)
                    continue
                shot = self.shots[-1]
                print(
                    f"round {turn + 1}/{rounds} {shot.tool}, {shot.text_bytes / MB:.1f} MB: "
                    f"{shot.wall_seconds:.2f} s, of it start-up {shot.start_seconds:.2f}; "
                    f"yardstick {shot.yard_mb_per_second:.2f} MB/s",
                    file=sys.stderr,
                    flush=True,
                )

    def rows(self, entries: Sequence[tuple[Tool, int]]) -> list[Row]:
        rows = [yard_row(self.yards, self.format)]
        for tool, files in entries:
            shots = [s for s in self.shots if (s.tool, s.files) == (tool.name, files)]
            if shots:
                rows.append(row(shots, self.checks.get((tool.name, files))))
        return rows


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "none"


def available(tools: Sequence[Tool], bench: Bench) -> list[Tool]:
    """The tools that give a command at all; ours gives none until it is filled in."""
    found = []
    for tool in tools:
        with bench.inputs(0, bench.format_for(tool)) as inputs:
            if tool.command(inputs, inputs.scratch / "out") is not None:
                found.append(tool)
            else:
                print(f"{tool.name}: no command yet, left out", file=sys.stderr)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, help="default: CACHE/corpus")
    parser.add_argument("--set", default="docs", choices=("docs", "prose", "code"))
    parser.add_argument("--format", default="json.gz", choices=FORMATS)
    parser.add_argument("--files", type=int, default=1, help="corpus files for every tool")
    parser.add_argument("--fast-files", type=int, default=7, help="and for fast tools once more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="TOOL", help="run these tools alone")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a tokenizer.json")
    parser.add_argument("--eos-token", default="<|endoftext|>")
    parser.add_argument("--yard-mb", type=float, default=6, help="text of a yardstick run")
    parser.add_argument("--check-mb", type=float, default=150, help="compare ids up to this much text")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--limit-seconds", type=float, default=1800, help="for one run")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    cache = options.cache.resolve()
    bench = Bench(
        corpus=Corpus.open(options.corpus or cache / "corpus", options.set),
        tokenizer=Tokenizer.read(options.tokenizer, options.eos_token),
        format=options.format,
        core=options.core,
        limit_seconds=options.limit_seconds,
        yard_mb=options.yard_mb,
        check_mb=options.check_mb,
        scratch=options.scratch.resolve(),
        yard_python=python_of(YARDSTICK, cache),
    )
    wanted = set(options.only or (t.name for t in (*OURS, *PEERS)))
    peers = [peer_tool(peer, cache) for peer in PEERS if peer.name in wanted]
    tools = available([*(tool for tool in OURS if tool.name in wanted), *peers], bench)
    if unknown := wanted - {t.name for t in (*OURS, *PEERS)}:
        raise SystemExit(f"unknown tools: {', '.join(sorted(unknown))}")
    entries = [(tool, options.files) for tool in tools]
    if options.fast_files > options.files:
        entries += [(tool, options.fast_files) for tool in tools if tool.fast]
    if not entries:
        raise SystemExit("nothing to measure")

    began = datetime.now(UTC)
    host = machine()
    leave_core(options.core)
    bench.run(entries, options.rounds)

    rows = bench.rows(entries)
    versions = {name: check.versions for (name, _), check in bench.checks.items()}
    print(f"{began:%Y-%m-%d %H:%M} UTC, {host['cpu']}, {host['cores']} cores, {host['system']}")
    print(f"load {host['load_1_5_15_minutes']}, core {options.core}, {options.rounds} rounds, ", end="")
    print(f"{options.set} {options.format}, {bench.tokenizer.path.name}, commit {commit()}")
    for name, packages in versions.items():
        print(f"{name}: {', '.join(f'{p} {v}' for p, v in packages.items())}")
    print("\n" + table(rows) + "\n\n" + NOTES)
    for r in rows:
        if r.left_behind:
            print(f"\n{r.tool} left {r.left_behind} processes behind; they were stopped after the clock.")
    for name, why in bench.failures.items():
        print(f"\nFAILED {name}: {why}")

    record = {
        "benchmark": "tokenize_end_to_end",
        "began": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": host,
        "settings": {k: v for k, v in vars(options).items() if not isinstance(v, Path)},
        "tokenizer": {"file": bench.tokenizer.path.name, "vocabulary": bench.tokenizer.vocabulary},
        "versions": versions,
        "rows": [asdict(r) for r in rows],
        "shots": [asdict(s) for s in bench.shots],
        "yardsticks": [asdict(y) | {"mb_per_second": y.mb_per_second} for y in bench.yards],
        "checks": [{"tool": n, "files": f} | asdict(c) for (n, f), c in bench.checks.items()],
        "failures": bench.failures,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"tokenize_{options.set}_{options.format}_{began:%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{path}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
