"""Processor seconds of whole builds, from the command to the published dataset, over all their processes, with bare
`gigatoken` and bare `tokenizers` (texts in memory) before and after each.

    python -m benchmarks.corpus --code-files 60 --web-files 7
    python -m benchmarks.tokenize_cpu [--set docs code web] [--format json.gz jsonl.zst parquet] [--workers 1 2]

For machines that are shared, where a clock on the wall measures the others. A line is the median of the rounds: MB of
text a processor second, with the start-up (a build of 20 documents, in the same round) and net of it, as multiples of
either yardstick. Everything is pinned to one core where `--workers` is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.command import RecipeInputs, Tokenizer
from benchmarks.measure import machine, warm
from benchmarks.ours import ours_command
from benchmarks.peers import CACHE
from benchmarks.start_cost import cpu_seconds
from benchmarks.tokenize_end_to_end import FORMATS, TOKENIZER, Corpus

SETS = ("docs", "code", "web")

_BARE = """
import sys, time
import gigatoken, tokenizers, pyarrow.parquet as pq
mb, *files = sys.argv[2:]
texts = [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]
data = open(sys.argv[1]).read()
def spent(encode, texts, characters):
    began, batch, held = time.process_time(), [], 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= characters:
            encode(batch)
            batch, held = [], 0
    encode(batch)
    return sum(len(text.encode()) for text in texts) / (time.process_time() - began) / 1e6
fast = gigatoken.Tokenizer.from_json(data)
fast.encode_batch(texts[:2000], parallel=False)
print(spent(lambda batch: fast.encode_batch(batch, parallel=False), texts, 2 << 20))
some = texts[: max(1, int(len(texts) * float(mb) * 1e6 / sum(map(len, texts))))]
slow = tokenizers.Tokenizer.from_str(data)
print(spent(lambda batch: slow.encode_batch_fast(batch, add_special_tokens=False), some, 1 << 20))
"""


@dataclasses.dataclass(frozen=True)
class Round:
    """MB a processor second of the yardsticks, processor seconds of the builds."""

    gigatoken: float
    tokenizers: float
    build: float
    start: float


@dataclasses.dataclass(frozen=True)
class Bench:
    corpus: Corpus
    format: str
    files: int
    workers: int
    core: int
    yard_mb: float

    @property
    def pinned(self) -> list[str]:
        return ["taskset", "-c", str(self.core)] if self.workers == 1 else []

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def bare(self) -> tuple[float, float]:
        files = map(str, self.corpus.paths(min(self.files, 8), "parquet"))
        argv = ["taskset", "-c", str(self.core), sys.executable, "-c", _BARE, str(TOKENIZER), str(self.yard_mb), *files]
        said = subprocess.run(argv, env=self.env, check=True, capture_output=True, text=True).stdout
        fast, slow = map(float, said.split())
        return fast, slow

    def build(self, files: int) -> float:
        with tempfile.TemporaryDirectory(prefix="b") as name:
            inputs = RecipeInputs(
                self.corpus.paths(files, self.format),
                self.format,
                Tokenizer.read(TOKENIZER, "<|endoftext|>"),
                Path(name),
            )
            warm(inputs.files)
            argv = [*self.pinned, *ours_command(inputs, Path(name) / "out").argv]
            argv[-1] = str(self.workers)  # the last word of our command
            return cpu_seconds(argv, {**self.env, "RAY_AUTH_MODE": "disabled", "TMPDIR": name})

    def round(self) -> Round:
        before = self.bare()
        start, build = self.build(0), self.build(self.files)
        after = self.bare()
        fast, slow = (statistics.mean(pair) for pair in zip(before, after, strict=True))
        return Round(fast, slow, build, start)


def line(bench: Bench, rounds: list[Round]) -> str:
    mb = bench.corpus.text_bytes(bench.files) / 1e6

    def of(name: str, ratios: list[float], digits: int) -> str:
        low, high = min(ratios), max(ratios)
        return f"{name} {statistics.median(ratios):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    net = [mb / (one.build - one.start) for one in rounds]
    whole = [mb / one.build for one in rounds]
    return "  ".join(
        [
            f"{bench.corpus.name:5s} {bench.format:9s} {bench.workers} workers {mb:6.0f} MB:",
            of("start s", [one.start for one in rounds], 1),
            of("net MB/s", net, 1),
            of("net/gigatoken", [n / one.gigatoken for n, one in zip(net, rounds, strict=True)], 2),
            of("net/tokenizers", [n / one.tokenizers for n, one in zip(net, rounds, strict=True)], 1),
            of("all/tokenizers", [n / one.tokenizers for n, one in zip(whole, rounds, strict=True)], 1),
            of("gigatoken", [one.gigatoken for one in rounds], 0),
            of("tokenizers", [one.tokenizers for one in rounds], 2),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, default=CACHE / "corpus")
    parser.add_argument("--set", nargs="+", default=["docs"], choices=SETS)
    parser.add_argument("--format", nargs="+", default=["json.gz"], choices=FORMATS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--files", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--yard-mb", type=float, default=5, help="of text for bare tokenizers, which is slow")
    given = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {json.dumps(machine())}")
    for name in given.set:
        for format in given.format:
            for workers in given.workers:
                corpus = Corpus.open(given.corpus, name)
                bench = Bench(corpus, format, given.files, workers, given.core, given.yard_mb)
                bench.build(0)  # proves the certificate of this host, if none is kept
                print(line(bench, [bench.round() for _ in range(given.rounds)]), flush=True)


if __name__ == "__main__":
    main()
