"""JSON lines: a document a line, with its ids and where it comes from.

    {"source": "books", "document_id": "…", "file": "books/books-0000.json.gz", "row": 17, "tokens": [12,  7,   4036]}

Each id has as many characters as the largest of the vocabulary: then a block of ids becomes text by one look-up in a
table. Blanks after a comma are nothing to a reader of JSON.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import CorruptShard
from bamba_data.format.dataset import Dataset

from .export_form import Written
from .export_record import ExportRecord
from .shard_files import ShardFiles
from .token_blocks import SourceShard, TokenBlock


class JsonlExport:
    """Implements `ExportForm`."""

    name = "jsonl"
    with_lineage = True
    default_delimiters: str | None = "none"

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None:
        self._source, self._dataset = record.source, dataset
        self._files = ShardFiles(out, record.source, ".jsonl")

    @property
    def results(self) -> list[Path]:
        return [self._files.folder]

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._files.open(record, resources)
        self._texts = texts_of(self._dataset.manifest.tokenizer.vocab_size)
        mine = self._dataset.files.filter(self._dataset.files["source"] == self._source)
        self._inputs: dict[int, str] = dict(zip(mine["file"], mine["path"], strict=True))

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        documents = tokens = 0
        with self._files.file(shard.stem) as path, path.open("wb") as file:
            for block in blocks:
                if len(block.ids) and int(block.ids.max()) >= len(self._texts):
                    raise CorruptShard(shard.row["path"], f"has an id beyond the vocabulary of {len(self._texts):,}")
                file.write(b"".join(self._lines(shard, block)))
                documents += len(block.counts)
                tokens += len(block.ids)
        written = Written(documents, tokens)
        self._files.add(shard.stem, written)
        return written

    def sync(self) -> dict[str, int]:
        return self._files.sync()

    def finish(self, record: ExportRecord) -> None:
        """Every file is in its place already."""

    def tidy(self) -> None:
        """Nothing is left to do."""

    def _lines(self, shard: SourceShard, block: TokenBlock) -> Iterator[bytes | memoryview]:
        width = self._texts.dtype.itemsize
        text = self._texts.take(block.ids).view(np.uint8).data  # pieces of it, not copies: it is most of a file
        ends = np.cumsum(block.counts)
        last_ids = block.ids[ends - 1].tolist()
        assert block.lineage is not None
        lineage = block.lineage.to_pydict()
        columns = (lineage["document_id"], lineage["file"], lineage["row"])
        bounds = (ends * width).tolist()
        for document_id, file, row, start, end, last in zip(*columns, [0, *bounds[:-1]], bounds, last_ids, strict=True):
            fields = {
                "source": self._source,
                "document_id": document_id,
                "file": self._inputs[shard.row["first_file"] + file],
                "row": row,
            }
            yield json.dumps(fields, ensure_ascii=False)[:-1].encode("utf-8", "surrogatepass")
            yield b', "tokens": ['
            yield text[start : end - width + len(str(last))]  # without the last comma
            yield b"]}\n"


def texts_of(vocab_size: int) -> NDArray[np.bytes_]:
    """Every id with a comma, in one width: [vocab_size] of `S<width>`."""
    width = len(f"{vocab_size - 1},")
    return np.array([f"{number},".ljust(width) for number in range(vocab_size)], f"S{width}")
