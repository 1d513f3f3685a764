"""Build a dataset on a laptop, then look into it.

    python examples/build_on_a_laptop.py demo-dataset

The recipe `demo` is public-domain text that ships with us: six units of work, tokenized by a Ray that starts and ends
with the command. Stop it with Ctrl-C or kill it, and the same command goes on where it was. With another recipe and
`--out s3://…` it is the command for a cluster.

Prints the verdict of the build, a table of the sources, the shards for readers such as Polars, and one line of text
that was read back from token ids.
"""

import subprocess
import sys

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from bamba_data import open_dataset


def main(out: str = "demo-dataset") -> None:
    subprocess.run([sys.executable, "-m", "pipelines.tokenize", "demo", "--out", out], check=True)

    dataset = open_dataset(out)  # the newest version; open_dataset(out, 1) is version 1
    print(f"\ndataset {dataset.manifest.name}, identity {dataset.identity[:16]}…")
    for source in dataset.manifest.sources:
        account = source.account
        bad = sum(account.dropped.values()) + sum(account.dead_lettered.values())
        print(f"  {source.name:20} {account.kept:4,} documents, {account.tokens:8,} tokens, {bad} bad records")

    # A shard is plain parquet: one row a document, its ids as little-endian bytes.
    shards = dataset.shard_urls("books")
    document = pl.scan_parquet(shards).head(1).collect().row(0, named=True)
    ids = np.frombuffer(document["tokens"], dataset.manifest.tokenizer.token_dtype)
    text = Tokenizer.from_str(dataset.tokenizer_json().decode()).decode(ids[:12].tolist())
    print(f"\n{len(shards)} shards of books; {document['document_id']} begins with {text!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
