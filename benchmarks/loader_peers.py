"""Other loaders at the work of benchmarks/loader.py: each made ready from the same tokens, then batches of 8 x 4096.

A peer has a preparation, `tokens.bin` (uint16) and the documents' counts in, its own files out, and a run. Both happen
in a process whose PYTHONPATH begins with the peer's folder, since their requirements exclude each other:

    pip install --target PEERS/litdata litdata            pip install --target PEERS/grain grain
    pip install --target PEERS/olmo-core ai2-olmo-core    pip install --target PEERS/streaming mosaicml-streaming
    pip install --target PEERS/energon megatron-energon   pip install --target PEERS/datatrove datatrove
    pip install --target PEERS/torchtitan torchtitan      (each with --no-deps and what it then misses beside our torch)
    git clone https://github.com/foundation-model-stack/fms-fsdp PEERS/fms-fsdp

`datasets` and torchdata's StatefulDataLoader come with the development extra. torchtitan's loader over Grain is in no
release on the index (0.3.0 has one over `datasets`, which tokenizes text as it is read): its parts are measured as
"grain" and as "torchtitan, text". None of them packs by best-fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS, TOKENS = 8, 4096
SHIPPED = "package:allenai_gpt-neox-olmo-dolma-v1_5.json"
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

    if (work / "litdata").exists():
        return
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


# ---- megatron-energon: a WebDataset of whole rows, shuffled by its buffer; no worker processes


def prepare_energon(work: Path) -> None:
    import io
    import tarfile

    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

    tokens, folder = tokens_of(work), work / "energon"
    folder.mkdir()
    rows = len(tokens) // TOKENS
    for shard in range(8):
        with tarfile.open(folder / f"{shard}.tar", "w") as out:
            for n in range(shard, rows, 8):
                member = tarfile.TarInfo(f"{n:09}.bin")
                member.size = 2 * TOKENS
                out.addfile(member, io.BytesIO(tokens[n * TOKENS : (n + 1) * TOKENS].tobytes()))
    shards = [f"{shard}.tar" for shard in range(8)]
    BaseWebdatasetFactory.prepare_dataset(EPath(folder), shards, split_parts_ratio=[("train", 1.0)], workers=1)
    kind = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    (folder / ".nv-meta" / "dataset.yaml").write_text(kind)


def energon_batches(work: Path) -> Iterator[Any]:
    import torch
    from megatron import energon

    read(work / "energon")

    @energon.stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        raw = sample.pop("bin")
        ids = torch.from_numpy(np.frombuffer(raw, np.uint16).astype(np.int64))
        return {**energon.basic_sample_keys(sample), "input_ids": ids}

    class Encoder(energon.DefaultTaskEncoder):  # type: ignore[misc, name-defined]
        cookers = (energon.Cooker(cook),)
        decoder = None

        def batch(self, samples: list[dict[str, Any]]) -> Any:
            return torch.stack([sample["input_ids"] for sample in samples])

    alone = energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = energon.get_train_dataset(
        str(work / "energon"),
        worker_config=alone,
        batch_size=ROWS,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=100,
        task_encoder=Encoder(batch_type=dict, raw_batch_type=dict),
    )
    return iter(energon.get_loader(dataset))


# ---- datatrove: its reader of the files that Nanotron trains on, windows in random order


def prepare_datatrove(work: Path) -> None:
    (work / "datatrove").mkdir()
    (work / "datatrove" / "one.ds").symlink_to(work / "tokens.bin")


def datatrove_batches(work: Path) -> Iterator[Any]:
    import torch
    from datatrove.utils.dataset import DatatroveFolderDataset
    from torch.utils.data import DataLoader

    read(work / "tokens.bin")
    windows = DatatroveFolderDataset(str(work / "datatrove"), TOKENS - 1, "*.ds")
    order = torch.utils.data.RandomSampler(windows, generator=torch.Generator().manual_seed(1))
    return iter(DataLoader(windows, batch_size=ROWS, sampler=order, num_workers=0))


# ---- text, tokenized as it is read, not shuffled


def tokenizer_file() -> Path:
    import bamba_data

    return Path(bamba_data.__file__).parent / "tokenizers" / SHIPPED.removeprefix("package:")


def datasets_text_batches(work: Path) -> Iterator[Any]:
    import datasets
    from tokenizers import Tokenizer
    from torchdata.stateful_dataloader import StatefulDataLoader

    read(work / "texts")
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))

    def grouped(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        ids = [token for one in encoded for token in (*one.ids, END)]
        return {"input_ids": [ids[n : n + TOKENS] for n in range(0, len(ids) - TOKENS + 1, TOKENS)]}

    source = datasets.load_dataset("parquet", data_files=f"{work}/texts/*.parquet", split="train", streaming=True)
    # So few that what is timed is more than what was tokenized before.
    rows = source.map(grouped, batched=True, batch_size=100, remove_columns=["text", "id"])
    return iter(StatefulDataLoader(rows, batch_size=ROWS, num_workers=0, collate_fn=stacked))


def torchtitan_batches(work: Path) -> Iterator[Any]:
    import datasets
    from tokenizers import Tokenizer
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets import text_datasets as titan

    read(work / "texts")
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))

    class Encoding:  # its own wrapper reads a folder of more files
        eos_id = END

        def encode(self, text: str, add_bos: bool, add_eos: bool) -> list[int]:
            return [*tokenizer.encode(text, add_special_tokens=False).ids, END]

    def load(path: str) -> Any:
        return datasets.load_dataset("parquet", data_files=f"{path}/*.parquet", split="train", streaming=True)

    titan.DATASETS["texts"] = DatasetConfig(path=f"{work}/texts", loader=load, sample_processor=lambda row: row["text"])
    config = titan.HuggingFaceTextDataLoader.Config(dataset="texts")
    return iter(
        titan.HuggingFaceTextDataLoader(
            config, dp_world_size=1, dp_rank=0, tokenizer=Encoding(), seq_len=TOKENS, local_batch_size=ROWS
        )
    )


# ---- with all cores


def litdata_workers(workers: int) -> Callable[[Path], Iterator[Any]]:
    def batches(work: Path) -> Iterator[Any]:
        from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

        read(work / "litdata")
        dataset = StreamingDataset(str(work / "litdata"), item_loader=TokensLoader(TOKENS), shuffle=True)
        return repeated(lambda: iter(StreamingDataLoader(dataset, batch_size=ROWS, num_workers=workers)))

    return batches


def grain_threads(threads: int) -> Callable[[Path], Iterator[Any]]:
    def batches(work: Path) -> Iterator[Any]:
        import grain

        read(work / "tokens.bin")
        tokens = tokens_of(work)
        rows = grain.MapDataset.range(len(tokens) // TOKENS).shuffle(seed=1).repeat()
        taken = rows.map(lambda n: tokens[n * TOKENS : (n + 1) * TOKENS].astype(np.int64)).batch(ROWS)
        return iter(taken.to_iter_dataset(grain.ReadOptions(num_threads=threads)))

    return batches


def repeated(once: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    while True:
        yield from once()


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
    "megatron-energon, ids, one source": Peer("megatron-energon", "energon", prepare_energon, energon_batches),
    "datatrove's reader, ids, random windows": Peer("datatrove", "datatrove", prepare_datatrove, datatrove_batches),
    "datasets + tokenizers, ids, text": Peer("datasets", "", nothing, datasets_text_batches),
    "torchtitan, with positions, text": Peer("torchtitan", "torchtitan", nothing, torchtitan_batches),
    **{
        f"litdata, ids, {n} workers": Peer("litdata", "litdata", prepare_litdata, litdata_workers(n)) for n in (2, 4, 8)
    },
    **{f"grain, ids, {n} threads": Peer("grain", "grain", nothing, grain_threads(n)) for n in (2, 4, 8)},
    "fms-fsdp, ids, one source": Peer("fms-fsdp", "fms-fsdp", prepare_fms, fms_batches),
}
