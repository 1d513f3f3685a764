"""How fast `verify --full` reads a dataset, beside `sha256sum` and `cat` of the same files, and beside one thread that
reads, hashes and decompresses them and does nothing else, in one run.

python -m benchmarks.verify_full [--tokens 400000000] [--mean 800] [--rounds 3]

Made-up documents (lengths log-normal, ids by Zipf's law) become shards of the usual size. Cold: before each run the
system is told that it need not keep the files in memory, so they come from the disk. MB are of shards, by the clock and
by processor time (of all threads, the kernel's part too); start-up is counted, but in the line `net`: that is without
what `verify` alone takes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measure import machine

FLOOR = """
import hashlib, sys
import pyarrow.parquet, zstandard
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    hashlib.sha256(data).hexdigest()
    metadata = pyarrow.parquet.read_metadata(path)
    for number in range(metadata.num_row_groups):
        tokens = metadata.row_group(number).column(0)
        begin = data.index(bytes.fromhex("28b52ffd"), tokens.data_page_offset)
        end = tokens.data_page_offset + tokens.total_compressed_size
        zstandard.ZstdDecompressor().decompress(memoryview(data)[begin:end], max_output_size=64 << 20)
"""


def make(folder: Path, tokens: int, mean: int) -> None:
    from bamba_data.storage.store import open_store
    from bamba_data.tokenization.tokenizer import Tokenizer
    from benchmarks import export
    from pipelines.dataset_build.token_import import TokenImport, import_tokens

    export.make_files(folder / "made", tokens, mean)
    tokenizer = Tokenizer(export.TOKENIZER.read_bytes())
    wanted = TokenImport("megatron", "made", {"made": folder / "made"}, tokenizer, "package")
    import_tokens(wanted, open_store(folder / "data"))


def forgotten(files: list[str]) -> None:
    """The system may forget what it read of these files."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run(argv: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as running:
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, argv[:4]
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=400_000_000)
    parser.add_argument("--mean", type=int, default=800, help="Tokens of a document.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(make, folder, arguments.tokens, arguments.mean).result()
        shards = sorted((folder / "data").glob("dataset=*/*.parquet"))
        files, size = [str(path) for path in shards], sum(path.stat().st_size for path in shards)
        print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}\n{size / 1e6:,.0f} MB in {len(files)} shards")
        commands = {
            "verify": [sys.executable, "-m", "pipelines.cli", "verify", str(folder / "data")],
            "verify --full": [sys.executable, "-m", "pipelines.cli", "verify", str(folder / "data"), "--full"],
            "sha256sum": ["sha256sum", *files],
            "cat": ["cat", *files],
            "read, hash, decompress": [sys.executable, "-c", FLOOR, *files],
        }
        for kind in ("warm", "cold"):
            took: dict[str, list[tuple[float, float]]] = {}
            for _ in range(arguments.rounds):
                for command, argv in commands.items():
                    if kind == "cold":
                        forgotten(files)
                    took.setdefault(command, []).append(run(argv))
            took["net"] = [
                (full[0] - alone[0], full[1] - alone[1])
                for full, alone in zip(took["verify --full"], took["verify"], strict=True)
            ]
            for command, times in took.items():
                clock, processors = (min(column) for column in zip(*times, strict=True))
                all_clocks = ", ".join(f"{seconds:.2f}" for seconds, _ in times)
                print(
                    f"{kind}  {command:24s} {size / clock / 1e6:6.0f} MB/s  {size / processors / 1e6:7.0f} MB a "
                    f"processor second  ({all_clocks} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
