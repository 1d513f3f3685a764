"""Small text sources for tests, with their indexes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.recipe import BadInput
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.conformance import Certificate
from loader.text.blocks import TextBlocks
from loader.text.index_build import in_processes, make_index
from loader.text.index_format import Index
from loader.text.open import open_text
from loader.text.spec import TextSource
from tests.corpora import TOKENIZER, records, write_parquet

PACKAGE = f"package:{TOKENIZER.name}"
LENIENT = BadInput(max_bad_rate=1.0)


def source(folder: Path | str, **more: Any) -> TextSource:
    """The parquet files below a folder."""
    fields: dict[str, Any] = {"name": "web", "files": f"{folder}/*.parquet", "tokenizer": PACKAGE, "block_tokens": 900}
    return TextSource(**(fields | more))


def write_texts(folder: Path, files: int = 3, rows: int = 20, row_group_size: int = 7, text_chars: int = 800) -> Path:
    """So many parquet files of so many documents each."""
    for number in range(files):
        write_parquet(folder / f"{number}.parquet", records(rows, rows * number, text_chars), row_group_size)
    return folder


def write_rows(path: Path, texts: Sequence[Any], ids: Sequence[Any], row_group_size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts), "id": pa.array(ids)})
    pq.write_table(table, path, row_group_size=row_group_size, compression="none")
    return path


def index(
    one: TextSource, at: Path | str, certificate: Certificate, scratch: Path, workers: int = 1, **more: Any
) -> Index:
    fetcher = Fetcher(retry_seconds=5)
    return make_index(one, str(at), fetcher, in_processes(workers, scratch, fetcher), certificate=certificate, **more)


def opened(one: TextSource, folder: Path, certificate: Certificate) -> TextBlocks:
    """The source with its index, in the cache `folder`."""
    index(one, folder / "text", certificate, folder / "scratch")
    return open_text(one, folder)


def documents(blocks: TextBlocks) -> list[list[int]]:
    """The ids of all documents, in the order of blocks."""
    return [ids.tolist() for block in range(len(blocks.tokens)) for ids in blocks.read(block).documents()]


def served(batches: Sequence[Any]) -> dict[int, list[int]]:
    """Rows by their number in the global order."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        for row, ids in zip(batch["row"].tolist(), np.asarray(batch["input_ids"]).tolist(), strict=True):
            assert row not in found
            found[row] = ids
    return found
