"""Published datasets for the loader's tests, and the same documents read back by pyarrow alone, for the oracle."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.holdout_candidates import LIMIT, id_hash
from bamba_data.tokenization.conformance import Certificate
from loader.order.plan import MixPlan
from tests.building import build
from tests.corpora import TOKENIZER, texts, write_jsonl
from tests.loader.oracle import MemoryBlocks, Oracle, Row

COLUMNS = ("input_ids", "labels", "position_ids", "seq_idx")


def publish(
    folder: Path, certificate: Certificate, sources: Mapping[str, Sequence[dict[str, Any]]], block_tokens: int = 700
) -> Path:
    """A dataset of these records by source, beside its inputs."""
    for name, rows in sources.items():
        write_jsonl(folder / "inputs" / f"{name}.json.gz", rows)
    corpora = [
        f'  - {{corpus: folder, name: {name}, base: inputs, form: jsonl, files: ["{name}.json.gz"]}}'
        for name in sources
    ]
    path = folder / "made.yaml"
    path.write_text(
        f"name: made\ntokenizer: {{url: package:{TOKENIZER.name}}}\ncorpora:\n"
        + "\n".join(corpora)
        + f"\nshards: {{block_tokens: {block_tokens}, blocks_per_shard: 3}}\n"
        "unit_bytes: 1\nbad_input: {empty_sources: keep, empty_files: keep}\n",
        encoding="utf-8",
    )
    build(folder / "dataset", certificate, str(path))
    return folder / "dataset"


def documents(count: int, chars: int, heldout: int = 0, prefix: str = "d") -> list[dict[str, Any]]:
    """Records of real prose of 1 to `chars` characters. Of their ids, those that may be held out are `heldout`."""
    known = "\n".join(texts())
    ids = (f"{prefix}-{n}" for n in range(10**9))
    held = ids_below_limit(prefix)[:heldout] if heldout else []
    plain = [one for one, _ in zip((one for one in ids if id_hash(one) >= LIMIT), range(count - heldout), strict=False)]
    dice = np.random.default_rng(count + chars)
    order = dice.permutation([*plain, *held]).tolist()
    return [
        {"id": one, "text": known[n * chars : n * chars + int(dice.integers(1, chars + 1))], "source": "test"}
        for n, one in enumerate(order)
    ]


def ids_below_limit(prefix: str) -> list[str]:
    """Ids that make a document a candidate for being held out."""
    return [one for one in (f"{prefix}-held-{n}" for n in range(4000)) if id_hash(one) < LIMIT]


def in_memory(dataset: Dataset | Path | str, holdout_ppm: int = 500) -> dict[str, MemoryBlocks]:
    """Every source of a dataset: its blocks as pyarrow reads them, held-out documents found by their ids."""
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(str(dataset))
    dtype = np.dtype(opened.manifest.tokenizer.token_dtype)
    found: dict[str, MemoryBlocks] = {}
    for source in opened.manifest.sources:
        blocks: list[list[list[int]]] = []
        heldout: list[tuple[int, int]] = []
        for url in opened.shard_urls(source.name):
            shard = pq.ParquetFile(url)
            for group in range(shard.num_row_groups):
                table = shard.read_row_group(group).to_pydict()
                ids = [np.frombuffer(raw, dtype).tolist() for raw in table["tokens"]]
                hashes = map(id_hash, table["document_id"])
                heldout += [(len(blocks), n) for n, h in enumerate(hashes) if h * 10**6 < holdout_ppm * 2**64]
                blocks.append(ids)
        found[source.name] = MemoryBlocks(source.name, blocks, tuple(heldout), dtype)
    return found


def oracle(data: Path | str, plan: MixPlan, rows: int) -> Oracle:
    return Oracle(plan, in_memory(data, plan.header.holdout_ppm), rows)


def rows_of(batch: Mapping[str, Any], names: Sequence[str]) -> dict[int, Row]:
    """The rows of a batch by global index, fill left out, as the oracle writes them."""
    found: dict[int, Row] = {}
    for place, g in enumerate(batch["row"].tolist()):
        if g >= 0:
            columns = [batch[name][place].tolist() for name in COLUMNS]
            found[g] = Row(names[int(batch["source"][place])], *columns, [])
    return found


def all_rows(batches: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[int, Row]:
    """The rows of several batches or ranks; that any comes twice is a failure."""
    found: dict[int, Row] = {}
    for batch in batches:
        here = rows_of(batch, names)
        assert not here.keys() & found.keys(), "a row came twice"
        found |= here
    return found


def size_of(state: Mapping[str, Any]) -> int:
    """Bytes of a state as JSON."""
    return len(json.dumps(state).encode())
