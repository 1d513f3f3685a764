"""Other loaders at the work of benchmarks/loader.py: each made ready from the same tokens, then batches of 8 x 4096.

A peer has a preparation, `tokens.bin` (uint16) and the documents' counts in, its own files out, and a run. Both happen
in a process whose PYTHONPATH begins with the peer's folder, since their requirements exclude each other:

    pip install --target PEERS/litdata litdata            pip install --target PEERS/grain grain
    pip install --target PEERS/olmo-core ai2-olmo-core    pip install --target PEERS/streaming mosaicml-streaming
    git clone https://github.com/foundation-model-stack/fms-fsdp PEERS/fms-fsdp

`datasets` and torchdata's StatefulDataLoader come with the development extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS, TOKENS = 8, 4096
END = 50279  # of a document, where a peer wants one


class Peer(NamedTuple):
    """The `package`, the `folder` of PEERS that it lies in, and what it is asked for."""

    package: str
    folder: str
    prepare: Callable[[Path], None]
    batches: Callable[[Path], Iterator[Any]]


def tokens_of(work: Path) -> np.ndarray:
    return np.memmap(work / "tokens.bin", np.uint16, "r")


def documents_of(work: Path) -> Iterator[np.ndarray]:
    tokens, at = tokens_of(work), 0
    for count in np.load(work / "counts.npy").tolist():
        yield tokens[at : at + count]
        at += count


def read(path: Path) -> None:
    """Into the page cache: what lies idle is taken out of it, and cold random reads are some 25 times slower."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                while opened.read(1 << 22):
                    pass


# ---- litdata: one source, TokensLoader, shuffled


def pieces(path: str) -> Iterator[Any]:
    import torch

    tokens = np.memmap(path, np.uint16, "r")
    for start in range(0, len(tokens), 65536):
        yield torch.from_numpy(tokens[start : start + 65536].astype(np.int32))


def prepare_litdata(work: Path) -> None:
    import litdata

    litdata.optimize(
        fn=pieces,
        inputs=[str(work / "tokens.bin")],
        output_dir=str(work / "litdata"),
        chunk_bytes="64MB",
        item_loader=litdata.TokensLoader(TOKENS),
        num_workers=1,
    )


def litdata_batches(work: Path) -> Iterator[Any]:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    read(work / "litdata")
    dataset = StreamingDataset(str(work / "litdata"), item_loader=TokensLoader(TOKENS), shuffle=True, drop_last=True)
    return iter(StreamingDataLoader(dataset, batch_size=ROWS, num_workers=0))


# ---- grain: MapDataset over the memory map, shuffled, batched, no threads


def grain_batches(work: Path) -> Iterator[Any]:
    import grain

    read(work / "tokens.bin")
    tokens = tokens_of(work)
    rows = grain.MapDataset.range(len(tokens) // TOKENS).shuffle(seed=1)
    taken = rows.map(lambda n: tokens[n * TOKENS : (n + 1) * TOKENS].astype(np.int64)).batch(ROWS)
    return iter(taken.to_iter_dataset(grain.ReadOptions(num_threads=0)))


# ---- OLMo-core: fixed rows of one memory map, shuffled, no threads


def olmo_batches(work: Path) -> Iterator[Any]:
    from olmo_core.data import NumpyDataLoaderConfig, NumpyFSLDatasetConfig, TokenizerConfig

    read(work / "tokens.bin")
    dataset = NumpyFSLDatasetConfig(
        TOKENS,
        tokenizer=TokenizerConfig(vocab_size=50280, eos_token_id=END, pad_token_id=1),
        paths=[str(work / "tokens.bin")],
        include_instance_metadata=False,
        work_dir=str(work / "olmo"),
    ).build()
    config = NumpyDataLoaderConfig(ROWS * TOKENS, seed=1, work_dir=str(work / "olmo"), num_threads=0)
    loader = config.build(dataset)
    loader.reshuffle(1)
    return iter(loader)


# ---- mosaicml-streaming: MDS of whole rows, py1e shuffle


def prepare_streaming(work: Path) -> None:
    from streaming import MDSWriter

    tokens = tokens_of(work)
    with MDSWriter(out=str(work / "mds"), columns={"tokens": f"ndarray:uint16:{TOKENS}"}) as out:
        for n in range(len(tokens) // TOKENS):
            out.write({"tokens": np.array(tokens[n * TOKENS : (n + 1) * TOKENS])})


def streaming_batches(work: Path) -> Iterator[Any]:
    import streaming
    import torch

    read(work / "mds")

    class Rows(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, at: int) -> Any:
            return torch.from_numpy(super().__getitem__(at)["tokens"].astype(np.int64))

    dataset = Rows(local=str(work / "mds"), shuffle=True, shuffle_algo="py1e", batch_size=ROWS)
    return iter(streaming.StreamingDataLoader(dataset, batch_size=ROWS, num_workers=0))


# ---- datasets + StatefulDataLoader: streamed parquet of lists, grouped in Python, not shuffled


def prepare_datasets(work: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.array(documents_of(work), pa.list_(pa.uint16()))
    pq.write_table(pa.table({"input_ids": rows}), work / "lists.parquet", row_group_size=1000)


def datasets_batches(work: Path) -> Iterator[Any]:
    import datasets
    from torchdata.stateful_dataloader import StatefulDataLoader

    read(work / "lists.parquet")

    def grouped(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = [token for one in batch["input_ids"] for token in one]
        return {"input_ids": [ids[n : n + TOKENS] for n in range(0, len(ids) - TOKENS + 1, TOKENS)]}

    source = datasets.load_dataset("parquet", data_files=str(work / "lists.parquet"), split="train", streaming=True)
    rows = source.map(grouped, batched=True, batch_size=1000)
    loader = StatefulDataLoader(rows, batch_size=ROWS, num_workers=0, collate_fn=stacked)
    return iter(loader)


def stacked(rows: list[dict[str, list[int]]]) -> Any:
    import torch

    return torch.tensor([row["input_ids"] for row in rows])


# ---- fms-fsdp: the stack that fed Bamba, a row buffer of 1,000


def prepare_fms(work: Path) -> None:
    import pyarrow as pa

    folder = work / "fms" / "one"
    folder.mkdir(parents=True)
    schema = pa.schema([pa.field("tokens", pa.uint32())])
    parts: list[Any] = []
    documents = list(documents_of(work))
    for n in range(8):
        with pa.ipc.new_file(str(folder / f"{n}.arrow"), schema) as out:
            for ids in documents[n::8]:
                out.write(pa.record_batch([pa.array(ids.astype(np.uint32))], schema=schema))
        parts.append(f"/one/{n}.arrow,{len(documents[n::8])},{sum(map(len, documents[n::8]))}")
    (work / "fms" / "meta").mkdir()
    (work / "fms" / "meta" / "counts.csv").write_text("dataset/filename,documents,tokens\n" + "\n".join(parts) + "\n")


def fms_batches(work: Path) -> Iterator[Any]:
    import torch
    from fms_fsdp.utils import dataset_utils as fms

    read(work / "fms")
    data: Any = fms.StreamingDocDataset(str(work / "fms"), 0, 1, fms.ArrowHandler(), END, min_length=3, seed=1)
    data = fms.ScalableShardDataset(data, END, n_logical_shards=64)
    data = fms.SamplingDataset(str(work / "fms"), data, END, datasets=["one"], weights=[1])
    data = fms.BufferDataset(data, TOKENS, pack_hard=True)
    data = fms.PreloadBufferDataset(data, 1000)
    data = fms.PreprocessDataset(data, torch.IntTensor)
    data = fms.PreprocessDataset(data, lambda row: row.long())
    return iter(torch.utils.data.DataLoader(data, num_workers=0, batch_size=ROWS))


def nothing(work: Path) -> None:
    """The memory map is all that it needs."""


PEERS = {
    "litdata, ids, one source": Peer("litdata", "litdata", prepare_litdata, litdata_batches),
    "grain, ids, memory map": Peer("grain", "grain", nothing, grain_batches),
    "OLMo-core, ids, one source": Peer("ai2-olmo-core", "olmo-core", nothing, olmo_batches),
    "mosaicml-streaming, ids, one source": Peer(
        "mosaicml-streaming", "streaming", prepare_streaming, streaming_batches
    ),
    "datasets + StatefulDataLoader, ids, not shuffled": Peer("torchdata", "", prepare_datasets, datasets_batches),
    "fms-fsdp, ids, one source": Peer("fms-fsdp", "fms-fsdp", prepare_fms, fms_batches),
}
