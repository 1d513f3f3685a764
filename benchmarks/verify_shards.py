"""How long `verify` without bodies takes over 10,000 shards on a local disk, and `show` of them.

python -m benchmarks.verify_shards [--shards 10000]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bamba_data.tokenization.conformance import choose
from bamba_data.tokenization.tokenizer import Tokenizer
from benchmarks.measure import machine
from tests.building import build, tiny_inputs
from tests.corpora import TOKENIZER
from tests.forging import many_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=10_000)
    count = parser.parse_args().shards
    _, certificate, _ = choose(Tokenizer(TOKENIZER.read_bytes()), "auto")
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
        dataset = Path(folder) / "dataset"
        build(dataset, certificate, str(tiny_inputs(Path(folder))))
        many_shards(dataset, count)
        print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}  {count:,} shards")
        for command in ("verify", "show"):
            began = time.perf_counter()
            argv = [sys.executable, "-m", "pipelines.cli", command, str(dataset)]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            print(f"{command:8s} {time.perf_counter() - began:6.2f} s   {done.stdout.splitlines()[0][:90]}")


if __name__ == "__main__":
    main()
