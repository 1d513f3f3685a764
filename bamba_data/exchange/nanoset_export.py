"""Token files of datatrove, which nanotron's Nanoset reads: three files a shard.

    dataset=<source>/<stem>.ds            ids end to end, uint16 where the vocabulary allows, else uint32
    dataset=<source>/<stem>.ds.index      uint64: where each document ends, in ids from the beginning of the file
    dataset=<source>/<stem>.ds.metadata   text: <tokenizer>|<bytes an id>, ids in the file, the same for people

All little-endian. The reader finds positions in a file by its index from the beginning on: hence a file a shard, and
not one a source. It reads windows across documents: so the caller must say what goes between them.
Source: `TokenizedFile` and `DatatroveFileDataset` of datatrove 0.10; `Nanoset` of huggingface/nanotron.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bamba_data.format.dataset import Dataset

from .export_form import Written
from .export_record import ExportRecord
from .shard_files import ShardFiles
from .token_blocks import SourceShard, TokenBlock


class NanosetExport:
    """Implements `ExportForm`."""

    name = "nanoset"
    with_lineage = False
    default_delimiters: str | None = None

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None:
        self._files = ShardFiles(out, record.source, ".ds")
        self._dtype = np.dtype(dataset.manifest.tokenizer.token_dtype)
        self._tokenizer = f"sha256:{dataset.manifest.tokenizer.sha256}"

    @property
    def results(self) -> list[Path]:
        return [self._files.folder]

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._files.open(record, resources)

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        documents = tokens = 0
        # The ids come into their place last: a reader that lists them finds the other two.
        with (
            self._files.file(shard.stem) as ids_path,
            self._files.file(shard.stem, ".ds.index") as index_path,
            self._files.file(shard.stem, ".ds.metadata") as metadata_path,
        ):
            with ids_path.open("wb") as ids, index_path.open("wb") as index:
                for block in blocks:
                    ids.write(np.ascontiguousarray(block.ids).astype(self._dtype, copy=False).data)
                    index.write((tokens + np.cumsum(block.counts)).astype("<u8").data)
                    documents += len(block.counts)
                    tokens += len(block.ids)
            metadata_path.write_text(f"{self._tokenizer}|{self._dtype.itemsize}\n{tokens}\n{tokens:,} T")
        written = Written(documents, tokens)
        self._files.add(shard.stem, written)
        return written

    def sync(self) -> dict[str, int]:
        return self._files.sync()

    def finish(self, record: ExportRecord) -> None:
        """Every file is in its place already."""

    def tidy(self) -> None:
        """Nothing is left to do."""
