"""Arrow files as IBM's fms-fsdp reads them: one record batch a document, and a list of how many each file holds.

    dataset=<source>/<stem>.arrow   Arrow IPC file, uncompressed, so that it can be mapped; `tokens` uint32
    meta/counts.csv                 dataset/filename,documents,tokens: without it every worker opens every file

That loader puts its own delimiters around documents, and takes away one at each end if it is told which: so none is the
default here. It finds a file of the list by what stands after `/<folder of the dataset>`: hence the slash before.
Source: `ArrowHandler` and `StreamingDocDataset` of foundation-model-stack/fms-fsdp.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from bamba_data.format.dataset import Dataset

from .appended_file import held, write_whole
from .export_form import Written
from .export_record import META, ExportRecord, finished_records
from .shard_files import ShardFiles, list_path
from .token_blocks import SourceShard, TokenBlock

SCHEMA = pa.schema([pa.field("tokens", pa.uint32(), nullable=False)])
COUNTS = f"{META}/counts.csv"
BUFFER_BYTES = 4 << 20


class ArrowExport:
    """Implements `ExportForm`."""

    name = "arrow"
    with_lineage = False
    default_delimiters: str | None = "none"

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None:
        self._out, self._files = out, ShardFiles(out, record.source, ".arrow")

    @property
    def results(self) -> list[Path]:
        return [self._files.folder]

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._files.open(record, resources)

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        documents = tokens = 0
        with (
            self._files.file(shard.stem) as path,
            # Gathered, and not by Python: a batch is half a dozen small writes.
            pa.output_stream(str(path), buffer_size=BUFFER_BYTES) as file,
            pa.ipc.new_file(file, SCHEMA) as writer,
        ):
            for block in blocks:
                _write_batches(writer, block)
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
        # After the record: of two sources that end at once, the later one lists both.
        with held(self._out / META / "counts.lock", wait=True):
            lists = [(self._out / list_path(record.source)).read_text() for record in finished_records(self._out)]
            rows = "".join(f"/{line}\n" for text in lists for line in text.splitlines())
            write_whole(self._out / COUNTS, f"dataset/filename,documents,tokens\n{rows}".encode())


def _write_batches(writer: pa.RecordBatchFileWriter, block: TokenBlock) -> None:
    ids = pa.array(block.ids.astype(np.uint32))
    ends = np.cumsum(block.counts).tolist()
    documents = [ids.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    if all(block.counts):
        # A chunk a batch, without a step of Python for each. A table leaves out chunks that are empty.
        writer.write_table(pa.Table.from_arrays([pa.chunked_array(documents, pa.uint32())], schema=SCHEMA))
    else:
        for document in documents:
            writer.write_batch(pa.RecordBatch.from_arrays([document], schema=SCHEMA))
