"""Counts parquet shards, ours too: column `tokens` or `input_ids`, lists or little-endian binary."""

from __future__ import annotations

import sys

from common import Job, main, parquet_documents


def build(job: Job) -> None:
    sys.exit("count_parquet.py only counts")


if __name__ == "__main__":
    main(build, parquet_documents, ("pyarrow",))
