"""Chunks of litdata, for its `StreamingDataset` with a `TokensLoader`: one item a document.

    dataset=<source>/<stem>-<number>.bin   an offset file (see `offset_files`), each document its ids
    dataset=<source>/index.json            the chunks, with documents (`chunk_size`) and ids (`dim`) of each

That loader cuts a chunk into rows across its documents, and leaves out what is less than a row at its end: so the
caller must say what goes between documents. torch's uint32 is no type of litdata: ids beyond 16 bits are int32.
Source: `BinaryWriter` and `TokensLoader` of litdata 0.2.76.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bamba_data.format.dataset import Dataset

from .export_form import Written
from .export_record import ExportRecord
from .offset_files import Documents, ListedFile, OffsetFiles
from .token_blocks import SourceShard, TokenBlock

#: (type of the ids in a file, litdata's number of it), by the type in shards.
TYPES = {"<u2": ("<u2", 20), "<u4": ("<i4", 16)}
#: torch's word for an item that is one tensor and no tree of several.
ONE_TENSOR = '[1, {"type": null, "context": null, "children_spec": []}]'


class LitdataExport:
    """Implements `ExportForm`."""

    name = "litdata"
    with_lineage = False
    default_delimiters: str | None = None

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None:
        kind, self._number = TYPES[dataset.manifest.tokenizer.token_dtype]
        self._dtype = np.dtype(kind)
        self._files = OffsetFiles(out, record.source, ".bin")

    @property
    def results(self) -> list[Path]:
        return [self._files.folder]

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._files.open(record, resources)

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        return self._files.write(shard, blocks, self._encoded)

    def sync(self) -> dict[str, int]:
        return self._files.sync()

    def finish(self, record: ExportRecord) -> None:
        self._files.write_index(self._index)

    def tidy(self) -> None:
        """Nothing is left to do."""

    def _encoded(self, block: TokenBlock) -> Documents:
        ids = np.ascontiguousarray(block.ids).astype(self._dtype, copy=False)
        return Documents([ids.data], block.counts * self._dtype.itemsize)

    def _index(self, files: list[ListedFile]) -> object:
        chunks = [
            {"chunk_bytes": one.size_bytes, "chunk_size": one.documents, "dim": one.tokens, "filename": one.path}
            for one in files
        ]
        config = {
            "chunk_bytes": max(one.size_bytes for one in files),
            "chunk_size": None,
            "compression": None,
            "data_format": [f"no_header_tensor:{self._number}"],
            "data_spec": ONE_TENSOR,
            "encryption": None,
            "item_loader": "TokensLoader",
        }
        return {"chunks": chunks, "config": config}
