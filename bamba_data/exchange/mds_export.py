"""MDS, for mosaicml-streaming: one sample a document, with a column `tokens`.

    dataset=<source>/<stem>-<number>.mds   an offset file (see `offset_files`), with the columns between
    dataset=<source>/index.json            the files, with samples and bytes of each

A sample is the size of its column in bytes (uint32), and an array of one axis: a byte that says how wide its length is,
the length, and the ids, uint16 where the vocabulary allows, else uint32. What reads it decides how documents become
rows; some put nothing between them: so the caller must say what goes there.
Source: `MDSWriter` and `NDArray` of mosaicml-streaming 0.13.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bamba_data import canonical_json
from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset

from .export_form import Written
from .export_record import ExportRecord
from .offset_files import FILE_BYTES, Documents, ListedFile, OffsetFiles
from .token_blocks import SourceShard, TokenBlock

ONE_AXIS = 1 << 2
#: (ids below which it is used, how the head of a sample is packed, the byte that says so), narrowest first.
WIDTHS = (
    (1 << 8, struct.Struct("<IBB"), ONE_AXIS | 0),
    (1 << 16, struct.Struct("<IBH"), ONE_AXIS | 1),
    (1 << 32, struct.Struct("<IBI"), ONE_AXIS | 2),
)


class MdsExport:
    """Implements `ExportForm`."""

    name = "mds"
    with_lineage = False
    default_delimiters: str | None = None

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None:
        self._dtype = np.dtype(dataset.manifest.tokenizer.token_dtype)
        self._columns: dict[str, Any] = {
            "column_encodings": [f"ndarray:{self._dtype.name}"],
            "column_names": ["tokens"],
            "column_sizes": [None],
            "compression": None,
            "format": "mds",
            "hashes": [],
            "size_limit": FILE_BYTES,
            "version": 2,
        }
        self._files = OffsetFiles(out, record.source, ".mds", canonical_json.dumps(self._columns))

    @property
    def results(self) -> list[Path]:
        return [self._files.folder]

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._files.open(record, resources)

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        return self._files.write(shard, blocks, lambda block: self._encoded(shard, block))

    def sync(self) -> dict[str, int]:
        return self._files.sync()

    def finish(self, record: ExportRecord) -> None:
        self._files.write_index(self._index)

    def tidy(self) -> None:
        """Nothing is left to do."""

    def _encoded(self, shard: SourceShard, block: TokenBlock) -> Documents:
        if not block.counts.all():
            raise UserError(
                f"{shard.row['path']}: has a document without an id, which MDS cannot hold: give --delimiters eos"
            )
        item_bytes = self._dtype.itemsize
        ids = np.ascontiguousarray(block.ids).astype(self._dtype, copy=False).view(np.uint8).data
        pieces: list[bytes | memoryview] = []
        sizes = []
        start = 0
        for count in block.counts.tolist():
            end = start + count * item_bytes
            head = _head(count, end - start)
            pieces += (head, ids[start:end])
            sizes.append(len(head) + end - start)
            start = end
        return Documents(pieces, np.array(sizes, np.int64))

    def _index(self, files: list[ListedFile]) -> object:
        shards = [
            {
                **self._columns,
                "raw_data": {"basename": one.path, "bytes": one.size_bytes, "hashes": {}},
                "samples": one.documents,
                "zip_data": None,
            }
            for one in files
        ]
        return {"shards": shards, "version": 2}


def _head(count: int, id_bytes: int) -> bytes:
    """What stands before the ids of a sample of `count` of them."""
    for below, packing, word in WIDTHS:
        if count < below:
            return packing.pack(packing.size - 4 + id_bytes, word, count)
    raise UserError(f"a document of {count:,} ids: MDS holds {WIDTHS[-1][0] - 1:,} at most")
