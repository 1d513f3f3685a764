"""Exports, in tokens a second of processor time, beside what writes the same form without us, in one run.

    python -m benchmarks.export [--tokens N] [--rounds N] [--megatron PYTHON] [--mds PYTHON] [--litdata PYTHON]
        [--nanoset PYTHON]

Made-up documents (lengths log-normal, mean some 800, as of web text; ids by Zipf's law) become a dataset once, which is
then exported in every form, read and verified from its shards. The others are given the same documents in memory, and
have nothing to read: a record batch of pyarrow a document, `json.dumps` a document, and, where a Python is named that
has them, megatron-core's `IndexedDatasetBuilder`, the `MDSWriter` of mosaicml-streaming, the `BinaryWriter` of litdata
with its `TokensLoader`, and the `TokenizedFile` of datatrove. Processor time of all threads, the kernel's part too,
best of the rounds: on a machine with other work the clock on the wall says little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bamba_data.exchange.export import FORMS, export
from bamba_data.exchange.megatron_index import CODES, IndexHeader
from bamba_data.format.dataset import open_dataset
from bamba_data.storage.store import open_store
from bamba_data.tokenization.tokenizer import Tokenizer
from benchmarks.measure import machine
from pipelines.dataset_build.token_import import TokenImport, import_tokens

TOKENIZER = Path(__file__).parent.parent / "bamba_data" / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
EOS = 50279
FIRST_ID = 10  # below are special tokens

READ = """
import sys, time
import numpy

ids = numpy.fromfile(sys.argv[1] + ".bin", numpy.uint16)
index = open(sys.argv[1] + ".idx", "rb").read()
n = int.from_bytes(index[18:26], "little")
ends = numpy.cumsum(numpy.frombuffer(index, "<i4", n, 34)).tolist()
documents = [ids[s:e] for s, e in zip([0, *ends], ends)]
out = sys.argv[2]
"""
#: By form: what its own writer does with `documents` at `out`, after what is imported and made before the clock runs.
WRITERS = {
    "megatron": (
        "megatron-core's builder",
        """
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
documents = [torch.from_numpy(document.astype(numpy.int64)) for document in documents]
""",
        """
builder = IndexedDatasetBuilder(out + ".bin", dtype=numpy.uint16)
for document in documents:
    builder.add_document(document, [len(document)])
builder.finalize(out + ".idx")
""",
    ),
    "mds": (
        "streaming's MDSWriter",
        """
import types
sys.modules["streaming.vision"] = types.ModuleType("streaming.vision")  # wants a torchvision that fits a CPU's torch
from streaming import MDSWriter
""",
        """
with MDSWriter(out=out, columns={"tokens": "ndarray:uint16"}, size_limit=1 << 26) as writer:
    for document in documents:
        writer.write({"tokens": document})
""",
    ),
    "litdata": (
        "litdata's BinaryWriter",
        """
import torch
from litdata.streaming.item_loader import TokensLoader
from litdata.streaming.writer import BinaryWriter
documents = [torch.from_numpy(document) for document in documents]
""",
        """
writer = BinaryWriter(out, chunk_bytes=1 << 26, item_loader=TokensLoader())
for number, document in enumerate(documents):
    writer[number] = document
writer.done()
writer.merge()
""",
    ),
    "nanoset": (
        "datatrove's TokenizedFile",
        """
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
documents = [document.tolist() for document in documents]  # as it gets them of its tokenizer
""",
        """
file = TokenizedFile(out, "made.ds", save_final_metadata=True)
for document in documents:
    file.write(document, None)
file.close()
""",
    ),
}


def make_files(prefix: Path, tokens: int, mean: int = 800) -> list[np.ndarray[Any, np.dtype[np.uint16]]]:
    """Token files of Megatron, without delimiters; their documents."""
    rng = np.random.default_rng(0)
    counts = np.maximum(1, rng.lognormal(np.log(mean) - 0.5, 1.0, tokens // mean + 1).astype(np.int64))
    ids = ((rng.zipf(1.2, int(counts.sum())) - 1) % (EOS - FIRST_ID) + FIRST_ID).astype(np.uint16)
    ids.tofile(prefix.with_suffix(".bin"))
    ends = np.cumsum(counts)
    index = IndexHeader(1, CODES["uint16"], len(counts), len(counts) + 1).packed()
    index += counts.astype("<i4").tobytes() + ((ends - counts) * 2).astype("<i8").tobytes()
    prefix.with_suffix(".idx").write_bytes(index + np.arange(len(counts) + 1, dtype="<i8").tobytes())
    return np.split(ids, ends[:-1])


def with_pyarrow(documents: list[Any], out: Path) -> None:
    schema = pa.schema([pa.field("tokens", pa.uint32())])
    with pa.OSFile(str(out), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for document in documents:
            writer.write_batch(pa.record_batch([pa.array(document, pa.uint32())], schema))


def with_json(documents: list[Any], out: Path) -> None:
    with out.open("w") as file:
        for number, document in enumerate(documents):
            line = {"source": "made", "document_id": str(number), "file": "made", "row": number}
            file.write(json.dumps({**line, "tokens": document.tolist()}) + "\n")


def processor_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=40_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    for form, (name, _, _) in WRITERS.items():
        parser.add_argument(f"--{form}", metavar="PYTHON", help=f"one that has {name}")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-export-") as folder:
        work = Path(folder)
        documents = make_files(work / "made", chosen.tokens)
        tokens = sum(map(len, documents))
        wanted = TokenImport("megatron", "made", {"made": work / "made"}, Tokenizer(TOKENIZER.read_bytes()), "package")
        seconds: dict[str, list[float]] = {}
        imported = processor_seconds(lambda: import_tokens(wanted, open_store(work / "data")))
        dataset = open_dataset(work / "data")
        for number in range(chosen.rounds):
            runs: dict[str, Callable[[], object]] = {}
            for form in FORMS:
                for kind in ("none", "eos"):
                    out = str(work / f"{form}-{kind}-{number}")
                    runs[f"export {form}, {kind}"] = lambda f=form, o=out, k=kind: export(dataset, f, o, delimiters=k)  # type: ignore[misc]
            runs["pyarrow, a batch a document"] = lambda: with_pyarrow(documents, work / "theirs.arrow")
            runs["json.dumps a document"] = lambda: with_json(documents[: len(documents) // 10], work / "theirs.jsonl")
            for name, run in runs.items():
                seconds.setdefault(name, []).append(processor_seconds(run))
            for form, (name, before, write) in WRITERS.items():
                if python := getattr(chosen, form):
                    timed = f"{READ}{before}\nstart = time.process_time()\n{write}\nprint(time.process_time() - start)"
                    command = [python, "-c", timed, str(work / "made"), str(work / f"theirs-{form}-{number}")]
                    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    seconds.setdefault(name, []).append(float(said.split()[-1]))
        seconds["json.dumps a document"] = [10 * value for value in seconds["json.dumps a document"]]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; {tokens:,} tokens in {len(documents):,} documents")
    print(f"{'import from Megatron (once)':<32}{tokens / imported / 1e6:8.0f} M tokens/s of one core")
    for name, values in seconds.items():
        print(f"{name:<32}{tokens / min(values) / 1e6:8.0f}   (rounds: {', '.join(f'{v:.2f} s' for v in values)})")


if __name__ == "__main__":
    main()
