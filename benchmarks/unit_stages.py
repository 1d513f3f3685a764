"""Where the time of a unit goes, by stage, in seconds of one core; and two workers of Ray beside two single processes.

    python -m benchmarks.unit_stages FILE.json.gz [FILE.json.gz ...]

A stage is timed by running the pipeline up to it and taking off the time up to the stage before. Two workers: every
file is a unit; two processes side by side run half of the units each without Ray, then Ray with two cores runs all;
only the running of units is timed (Ray by its rate, from the first text to the last), three times in turn.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bamba_data.format.shard import ShardWriter
from bamba_data.recipe import BadInput, Recipe, load
from bamba_data.sources import jsonl
from bamba_data.sources.base import TextRule
from bamba_data.sources.decompress import inflate
from bamba_data.sources.lines import read_lines
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.dedup import SeenIds
from bamba_data.tokenization.encode import Encoder, batches
from benchmarks.measure import machine
from pipelines.dataset_build.driver import Prepared, prepare, run_here
from pipelines.dataset_build.run import _run as run_on_ray
from pipelines.observe.display import Display
from pipelines.ray_jobs.executor import Options

RULES = BadInput()


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def drain(items: Iterable[Any]) -> None:
    deque(items, maxlen=0)


def stages(path: Path, prepared: Prepared) -> dict[str, float]:
    tokenizer = prepared.tokenizer
    backend = tokenizer.backend(prepared.job.backend)
    parse = jsonl.parser(TextRule(), path.name, RULES.max_line_bytes)

    def plain() -> Iterator[bytes]:
        return inflate(chunks(path), path.name, RULES.max_inflate_ratio)

    def lines() -> Iterator[Any]:
        return read_lines(plain(), RULES.max_line_bytes)

    def documents() -> Iterator[Any]:
        return (parse(line) for line in lines())

    def encoded() -> Iterator[Any]:
        encoder = Encoder(backend, tokenizer.vocab_size, RULES, SeenIds())
        for batch in batches(documents()):
            yield from zip(batch, encoder.encode(batch), strict=True)

    def shard() -> Iterator[None]:
        writer = ShardWriter(tokenizer.dtype, 1 << 18, 128)
        for item, ids in encoded():
            if not hasattr(ids, "reason"):
                writer.add(ids, item.id, 0, item.row)
            yield None
        io.BytesIO(writer.finish().data)

    upto: dict[str, Callable[[], Iterator[Any]]] = {
        "read": lambda: chunks(path),
        "inflate": plain,
        "lines": lines,
        "parse": documents,
        "encode": encoded,
        "shard": shard,
    }
    drain(encoded())  # warm
    seconds: dict[str, float] = {}
    for name, make in upto.items():
        found = []
        for _ in range(3):
            began = time.process_time()
            drain(make())
            found.append(time.process_time() - began)
        seconds[name] = min(found)
    return seconds


def recipe_of(files: list[Path]) -> Recipe:
    names = ", ".join(repr(file.name) for file in files)
    return load(
        f"""
name: stages
tokenizer: {{url: package:allenai_gpt-neox-olmo-dolma-v1_5.json}}
corpora: [{{corpus: folder, name: x, base: {files[0].parent}, form: jsonl, files: [{names}]}}]
bad_input: {{max_bad_rate: 1}}
unit_bytes: 1
""",
        "benchmark",
    )


def prepared_in(out: Path, files: list[Path]) -> Prepared:
    return prepare(recipe_of(files), files[0].parent, str(out), Fetcher())


def alone(out: Path, files: list[Path]) -> None:
    """Units one after the other in this process; prints when it was ready and when it was done."""
    ready = prepared_in(out, files)
    began = time.time()
    assert not run_here(ready, Fetcher())
    print(began, time.time())


def two_alone(files: list[Path], folder: Path) -> float:
    halves = files[::2], files[1::2]
    command = [sys.executable, "-m", "benchmarks.unit_stages", "--alone"]
    running = [
        subprocess.Popen([*command, str(folder / f"half{n}"), *map(str, half)], stdout=subprocess.PIPE, text=True)
        for n, half in enumerate(halves)
    ]
    times = [tuple(map(float, one.communicate()[0].split())) for one in running]
    return statistics.mean(end - began for began, end in times)


def on_ray(files: list[Path], folder: Path) -> float:
    ready = prepared_in(folder / "ray", files)
    watch = _Watch()
    assert not run_on_ray(ready, ready.remaining(), Options(workers=2), watch)
    (began, first), (ended, last) = watch.seen[0], watch.seen[-1]
    return (ended - began) * watch.text_bytes / (last - first)


class _Watch(Display):
    """A display that notes when how much text was done, from the first of it on."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        self.text_bytes = 0

    def show(self, snapshot: Any) -> None:
        self.text_bytes = snapshot.counts.text_bytes
        if self.text_bytes and (not self.seen or self.seen[-1][1] != self.text_bytes):
            self.seen.append((time.time(), self.text_bytes))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, default=8, help="of every file, for the two workers; 0: leave them out")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    files = [file.absolute() for file in arguments.files]
    if arguments.alone:
        alone(arguments.alone, files)
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}")
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as name:
        folder = Path(name)
        ready = prepared_in(folder / "one", files)
        found = stages(files[0], ready)
        text = sum(len(part) for part in inflate(chunks(files[0]), files[0].name, 10**6))
        total = found["shard"]
        print(f"{files[0].name}, {text / 1e6:.0f} MB of lines: {text / total / 1e6:.1f} MB/s on one core, of it")
        before = 0.0
        for stage, seconds in found.items():
            print(f"  {stage:8s} {seconds - before:6.2f} s  {(seconds - before) / total:6.1%}")
            before = seconds
        if arguments.copies:
            ratios = []
            folder_of_copies = folder / "copies"
            folder_of_copies.mkdir()
            copies = [folder_of_copies / f"{n:03d}-{file.name}" for n in range(arguments.copies) for file in files]
            for copy in copies:
                copy.symlink_to(next(file for file in files if copy.name.endswith(file.name)))
            files = copies
            for number in range(3):
                single = two_alone(files, folder / f"a{number}")
                both = on_ray(files, folder / f"r{number}")
                ratios.append(single / both)
                print(f"two processes {single:.2f} s, Ray with two workers {both:.2f} s: {single / both:.2f}")
            print(f"two workers reach {statistics.median(ratios):.2f} of two single processes")


if __name__ == "__main__":
    main()
