"""Readers of what exports write, by the formats' own words and none of our code; and what must be in it."""

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.shard import ShardReader

DTYPES = {4: "<i4", 8: "<u2"}
LITDATA_DTYPES = {"no_header_tensor:16": "<i4", "no_header_tensor:20": "<u2"}


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


def read_nanoset(folder: Path) -> list[list[int]]:
    """The documents of all token files of datatrove in a source's folder, which hold nothing else."""
    found: list[list[int]] = []
    paths = sorted(folder.glob("*.ds"))
    assert len(list(folder.iterdir())) == 3 * len(paths) > 0
    for path in paths:
        kind, total = Path(f"{path}.metadata").read_text().splitlines()[:2]
        ids = np.fromfile(path, {"2": "<u2", "4": "<u4"}[kind.rpartition("|")[2]])
        ends = np.fromfile(f"{path}.index", "<u8").astype(np.int64)
        assert len(ids) == int(total) == ends[-1]
        found += [one.tolist() for one in np.split(ids, ends[:-1])]
    return found


def read_litdata(folder: Path) -> list[list[int]]:
    """The items of all chunks that index.json lists, which are all that there are."""
    index = json.loads((folder / "index.json").read_text())
    kind = LITDATA_DTYPES[index["config"]["data_format"][0]]
    found: list[list[int]] = []
    for chunk in index["chunks"]:
        items, start = _items((folder / chunk["filename"]).read_bytes(), chunk["chunk_bytes"])
        assert (len(items), start) == (chunk["chunk_size"], 4 * (len(items) + 2))
        found += (documents := [np.frombuffer(item, kind).tolist() for item in items])
        assert sum(map(len, documents)) == chunk["dim"]
    assert {chunk["filename"] for chunk in index["chunks"]} == {path.name for path in folder.glob("*.bin")}
    return found


def read_mds(folder: Path) -> list[list[int]]:
    """The samples of all files that index.json lists, which are all that there are."""
    index = json.loads((folder / "index.json").read_text())
    found: list[list[int]] = []
    for shard in index["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        samples, start = _items(data, shard["raw_data"]["bytes"])
        assert len(samples) == shard["samples"]
        columns = json.loads(data[4 * (len(samples) + 2) : start])
        assert columns == {key: shard[key] for key in columns}
        assert (index["version"], columns["version"], columns["column_names"]) == (2, 2, ["tokens"])
        kind = np.dtype(columns["column_encodings"][0].removeprefix("ndarray:"))
        for sample in samples:
            size, word = struct.unpack_from("<IB", sample)
            width = 1 << (word & 3)
            assert (size, word >> 2) == (len(sample) - 4, 1)
            ids = np.frombuffer(sample, kind, offset=5 + width).tolist()
            assert int.from_bytes(sample[5 : 5 + width], "little") == len(ids)
            found.append(ids)
    assert {shard["raw_data"]["basename"] for shard in index["shards"]} == {path.name for path in folder.glob("*.mds")}
    return found


def _items(data: bytes, size_bytes: int) -> tuple[list[bytes], int]:
    """What the offsets at the head of a file say lies in it, and where the first begins."""
    (count,) = struct.unpack_from("<I", data)
    offsets = np.frombuffer(data, "<u4", count + 1, 4).tolist()
    assert offsets[-1] == len(data) == size_bytes
    return [data[start:end] for start, end in itertools.pairwise(offsets)], offsets[0]
