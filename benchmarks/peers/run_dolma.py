"""`dolma tokens`, the command OLMo's documentation gives, one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common import Job, main

if TYPE_CHECKING:
    from common import Ids


def build(job: Job) -> None:
    dolma = str(Path(sys.executable).parent / "dolma")
    argv = [dolma, "tokens", "--documents", *map(str, job.inputs)]
    argv += ["--destination", str(job.out), "--processes", "1", "--dtype", job.dtype]
    argv += ["--tokenizer.name_or_path", str(job.tokenizer)]
    argv += ["--tokenizer.eos_token_id", str(job.eos_id), "--tokenizer.pad_token_id", "1"]
    os.execv(dolma, argv)


def documents(job: Job) -> Iterator[Ids]:
    import csv
    import gzip

    import numpy as np

    for path in sorted(job.out.rglob("*.csv.gz")):
        ids = np.fromfile(path.with_name(path.name.replace(".csv.gz", ".npy")), job.dtype)
        with gzip.open(path, "rt", newline="") as rows:
            for start, end, *_ in csv.reader(rows):
                yield ids[int(start) : int(end)]


if __name__ == "__main__":
    main(build, documents, ("dolma", "tokenizers"))
