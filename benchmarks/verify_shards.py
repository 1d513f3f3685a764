"""How long `verify` without bodies, `show`, `status`, `sweep` and `page` take over many shards on a local disk, and in
how much memory.

python -m benchmarks.verify_shards [--shards 10000]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measure import machine


def make(folder: Path, count: int) -> None:
    from bamba_data.tokenization.conformance import choose
    from bamba_data.tokenization.tokenizer import Tokenizer
    from tests.building import build, tiny_inputs
    from tests.corpora import TOKENIZER
    from tests.forging import many_shards

    _, certificate, _ = choose(Tokenizer(TOKENIZER.read_bytes()), "auto")
    build(folder / "dataset", certificate, str(tiny_inputs(folder)))
    many_shards(folder / "dataset", count, shutil.copyfile)  # a disk has no 100,000 links to one file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=10_000)
    count = parser.parse_args().shards
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
        dataset = Path(folder) / "dataset"
        # Elsewhere, so that this process stays small: what it starts is told to have had its size, until it execs.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(make, Path(folder), count).result()
        print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}  {count:,} shards")
        for command in ("verify", "show", "status", "sweep", "page"):
            began = time.perf_counter()
            argv = [sys.executable, "-m", "pipelines.cli", command, str(dataset)]
            argv += ["-o", str(Path(folder) / "page.html")] if command == "page" else []
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
                assert running.stdout is not None
                said = running.stdout.read().splitlines()
                _, status, used = os.wait4(running.pid, 0)
                running.returncode = os.waitstatus_to_exitcode(status)
            seconds, cpu_seconds = time.perf_counter() - began, used.ru_utime + used.ru_stime
            print(
                f"{command:8s} exit {running.returncode}  {seconds:6.2f} s  {cpu_seconds:6.2f} s of CPU  "
                f"{used.ru_maxrss / 1024:6.0f} MiB   {said[0][:90] if said else ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
