"""How much memory a worker takes at its worst, for every form of input that we could think of.

    python -m benchmarks.worker_memory [CASE...]

Every case makes its input, runs one whole unit on it in a process of its own, and prints the peak resident size of
that process, what became of the records, and the seconds. The promise is 1.5 GiB, whatever the input.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from bamba_data.errors import BambaError
from bamba_data.locking.lock import load_tokenizer, resolve
from bamba_data.recipe import load
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from benchmarks.measure import machine
from pipelines.dataset_build import plan as plans
from pipelines.dataset_build.plan import Job
from pipelines.dataset_build.unit import Tools, run

LIMIT_GIB = 1.5
MiB = 1 << 20
PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "


def line(number: int, text: str) -> bytes:
    return json.dumps({"id": f"doc-{number}", "text": text}, ensure_ascii=False).encode() + b"\n"


def gz(path: Path, lines: Iterator[bytes]) -> str:
    with gzip.open(path / "x.json.gz", "wb", 1) as file:
        file.writelines(lines)
    return "x.json.gz"


def prose(chars: int) -> str:
    return (PROSE * (chars // len(PROSE) + 1))[:chars]


def cjk(chars: int, dice: random.Random) -> str:
    return "".join(chr(c) for c in dice.choices(range(0x4E00, 0x9FA5), k=chars))


def ordinary(path: Path) -> str:
    """200 MB of documents of 4 kB."""
    return gz(path, (line(n, f"{n} {prose(4000)}") for n in range(50_000)))


def tiny_documents(path: Path) -> str:
    """Six million documents of a few bytes, each with an id to remember."""
    return gz(path, (b'{"id":"%d","text":"a b"}\n' % n for n in range(6_000_000)))


def line_of_256_mb(path: Path) -> str:
    def lines() -> Iterator[bytes]:
        yield line(0, "before")
        yield b'{"id":"long","text":"'
        dice = random.Random(1)
        for _ in range(256):
            yield dice.randbytes(MiB // 2).hex().encode()
        yield b'"}\n' + line(1, "after")

    return gz(path, lines())


def largest_documents(path: Path) -> str:
    """Twenty documents just below the limit of 16 MiB, prose."""
    return gz(path, (line(n, prose(16 * MiB - 100)) for n in range(20)))


def largest_documents_cjk(path: Path) -> str:
    """Four of them in ideographs, of 15 MB: some 6 M tokens each."""
    dice = random.Random(1)
    return gz(path, (line(n, cjk(5 * MiB - 100, dice)) for n in range(4)))


def bad_lines(path: Path) -> str:
    """300 MB of lines that are no JSON: all dead letters."""
    return gz(path, (b"no json " * 500 + b"\n" for _ in range(75_000)))


def bomb_gzip(path: Path) -> str:
    """4 GB of zeros in 4 MB."""
    with gzip.open(path / "x.json.gz", "wb", 9) as file:
        for _ in range(64):
            file.write(bytes(64 * MiB))
    return "x.json.gz"


def bomb_zstd(path: Path) -> str:
    """8 GB of zeros in some kB."""
    with (path / "x.jsonl.zst").open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as file:
        for _ in range(128):
            file.write(bytes(64 * MiB))
    return "x.jsonl.zst"


def large_row_group(path: Path) -> str:
    """Parquet with 800 MB of text in one row group."""
    texts = [f"{n} {prose(20_000)}" for n in range(40_000)]
    pq.write_table(
        pa.table({"id": [str(n) for n in range(40_000)], "text": texts}), path / "x.parquet", row_group_size=1 << 20
    )
    return "x.parquet"


def large_rows(path: Path) -> str:
    """Parquet with thirty texts of 30 MB among a hundred thousand short ones."""
    texts = [prose(30 * MiB) if n % 3334 == 0 else f"{n} short" for n in range(100_000)]
    pq.write_table(
        pa.table({"id": [str(n) for n in range(100_000)], "text": texts}), path / "x.parquet", use_dictionary=False
    )
    return "x.parquet"


def bomb_dictionary(path: Path) -> str:
    """Parquet whose dictionary holds one text of 16 MB that 3,000 rows point to: 48 GB in some kB."""
    ids = pa.array([str(n) for n in range(3000)])
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([prose(16 * MiB)]))
    pq.write_table(pa.table({"id": ids, "text": texts}), path / "x.parquet", dictionary_pagesize_limit=1 << 30)
    return "x.parquet"


CASES: dict[str, tuple[Callable[[Path], str], str]] = {
    "ordinary": (ordinary, "auto"),
    "ordinary, reference backend": (lambda path: gz(path, (line(n, prose(4000)) for n in range(3000))), "tokenizers"),
    "tiny documents": (tiny_documents, "auto"),
    "line of 256 MB": (line_of_256_mb, "auto"),
    "largest documents": (largest_documents, "auto"),
    "largest documents, CJK": (largest_documents_cjk, "auto"),
    "largest document, reference": (lambda path: gz(path, iter([line(0, prose(16 * MiB - 100))])), "tokenizers"),
    "bad lines": (bad_lines, "auto"),
    "gzip bomb": (bomb_gzip, "auto"),
    "zstd bomb": (bomb_zstd, "auto"),
    "parquet, row group of 800 MB": (large_row_group, "auto"),
    "parquet, rows of 30 MB": (large_rows, "auto"),
    "parquet, dictionary bomb": (bomb_dictionary, "auto"),
}


def run_case(name: str, folder: Path, file: str) -> None:
    form = "parquet" if file.endswith("parquet") else "jsonl"
    recipe = load(
        f"""
name: memory
tokenizer: {{url: package:allenai_gpt-neox-olmo-dolma-v1_5.json}}
corpora: [{{corpus: folder, name: x, base: {folder}, form: {form}, files: ["{file}"]}}]
""",
        name,
    )
    fetcher = Fetcher()
    tokenizer = load_tokenizer(recipe, folder, fetcher)
    lock = resolve(recipe, folder, fetcher)
    backend = tokenizer.backend("gigatoken" if CASES[name][1] == "auto" else CASES[name][1])
    earned = Certificate(backend.name, backend.version, "0", "0" * 64, 0, 0, True)
    job = Job(recipe, lock.sources, tokenizer.sha256, earned, str(folder / "out"))
    tools = Tools(open_store(folder / "out"), fetcher, tokenizer, backend, folder / "scratch")
    (unit,) = plans.make(recipe, lock, tokenizer.sha256).units
    began = time.perf_counter()
    try:
        ledger = run(unit, job, tools).ledger
        became = f"{ledger.kept:,} kept, {ledger.tokens:,} tokens, {ledger.dead_lettered or 'none'} dead-lettered"
    except BambaError as error:
        became = f"{type(error).__name__}: {str(error).rpartition('/')[2]}"
    # Not ru_maxrss: it survives exec, so it would count the process that made the input.
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / MiB
    flag = "" if peak <= LIMIT_GIB else "  OVER"
    print(f"{name:32s} {peak:6.2f} GiB {time.perf_counter() - began:7.1f} s  {became}{flag}", flush=True)


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--run":
        run_case(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}")
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory(prefix="bamba-memory-") as folder:
            file = CASES[name][0](Path(folder))
            subprocess.run([sys.executable, "-m", "benchmarks.worker_memory", "--run", name, folder, file], check=True)


if __name__ == "__main__":
    main()
