"""Readers of what exports write, by the formats' own words and none of our code; and what must be in it."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.shard import ShardReader

DTYPES = {4: "<i4", 8: "<u2"}


def documents_of(url: str | Path, source: str, before: list[int], after: list[int]) -> list[list[int]]:
    """Every document of a source, read from its shards, with the ids around it."""
    dataset = open_dataset(url)
    return [[*before, *ids.tolist(), *after] for ids in _documents(dataset, source)]


def _documents(dataset: Dataset, source: str) -> list[Any]:
    found: list[Any] = []
    for path, of in dataset.shards.select("path", "source").iter_rows():
        if of == source:
            with dataset.store.open(path) as file:
                reader = ShardReader(file, path)
                for block in range(reader.blocks):
                    found += reader.tokens(block).documents()
    return found


def read_megatron(prefix: Path) -> list[list[int]]:
    """The documents of `<prefix>.bin` and `.idx`."""
    index, ids = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code, sequences, entries = struct.unpack_from("<QBQQ", index, 9)
    assert (version, entries) == (1, sequences + 1)
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    starts = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    assert np.frombuffer(index, "<i8", entries, 34 + 12 * sequences).tolist() == list(range(entries))
    assert len(index) == 34 + 12 * sequences + 8 * entries
    kind = np.dtype(DTYPES[code])
    assert len(ids) == int(lengths.sum()) * kind.itemsize
    return [
        np.frombuffer(ids, kind, int(length), int(start)).tolist()
        for length, start in zip(lengths, starts, strict=True)
    ]


def read_arrow(folder: Path) -> list[list[int]]:
    """The documents of all Arrow files of a source's folder, as fms-fsdp reads them: mapped, a record batch each."""
    found = []
    for path in sorted(folder.iterdir()):
        assert "arrow" in path.suffix
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        found += [reader.get_batch(number)["tokens"] for number in range(reader.num_record_batches)]
    assert {column.type for column in found} == {pa.uint32()}
    return [column.to_pylist() for column in found]


def read_jsonl(folder: Path) -> list[dict[str, Any]]:
    """Every line of all files of a source's folder."""
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_bytes().split(b"\n")[:-1]]
