"""MDS, for mosaicml-streaming: one sample a document, with a column `tokens`.

    dataset=<source>/<stem>-<number>.mds   an offset file (see `offset_files`), with the columns between
    dataset=<source>/index.json            the files, with samples and bytes of each

A sample is the size of its column in bytes (uint32), and an array of one axis: a byte that says how wide its length is,
the length, and the ids, uint16 where the vocabulary allows, else uint32. What reads it decides how documents become
rows; some put nothing between them: so the caller must say what goes there.
Source: `MDSWriter` and `NDArray` of mosaicml-streaming 0.13.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bamba_data import canonical_json
from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset

from .export_form import Written
from .export_record import ExportRecord
from .offset_files import FILE_BYTES, Documents, ListedFile, OffsetFiles
from .token_blocks import SourceShard, TokenBlock

ONE_AXIS = 1 << 2
#: (ids below which it is used, what stands before the ids of a sample, the byte that says so), narrowest first.
WIDTHS = (
    (1 << 8, np.dtype([("size", "<u4"), ("word", "u1"), ("ids", "u1")]), ONE_AXIS | 0),
    (1 << 16, np.dtype([("size", "<u4"), ("word", "u1"), ("ids", "<u2")]), ONE_AXIS | 1),
    (1 << 32, np.dtype([("size", "<u4"), ("word", "u1"), ("ids", "<u4")]), ONE_AXIS | 2),
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
        return samples_of(np.ascontiguousarray(block.ids).astype(self._dtype, copy=False), block.counts)

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


def samples_of(ids: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> Documents:
    """Documents as samples: `ids` of them end to end, as they are stored, and how many each has, at least one.

    Heads and ids are put in their places for all documents at once: one by one they took most of an export's time.
    """
    if int(counts.max(initial=0)) >= WIDTHS[-1][0]:
        raise UserError(f"a document of {int(counts.max()):,} ids: MDS holds {WIDTHS[-1][0] - 1:,} at most")
    id_bytes = counts * ids.itemsize
    widths = np.searchsorted([below for below, _, _ in WIDTHS], counts, side="right")
    sizes = np.array([head.itemsize for _, head, _ in WIDTHS])[widths] + id_bytes
    starts = np.cumsum(sizes) - sizes
    samples = np.empty(int(sizes.sum()), np.uint8)
    is_id = np.ones(len(samples), np.bool_)
    for number, (_, head, word) in enumerate(WIDTHS):
        chosen = widths == number
        heads = np.empty(int(chosen.sum()), head)
        heads["size"] = head.itemsize - 4 + id_bytes[chosen]
        heads["word"], heads["ids"] = word, counts[chosen]
        places = starts[chosen][:, None] + np.arange(head.itemsize)
        samples[places] = heads.view(np.uint8).reshape(-1, head.itemsize)
        is_id[places] = False
    samples[is_id] = ids.view(np.uint8)
    return Documents([samples.data], sizes)
