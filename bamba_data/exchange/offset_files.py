"""For formats of files that begin with where each document lies in them, listed by an index.json beside them.

    uint32        documents, n
    uint32[n+1]   where each begins in the file, in bytes, and where the last ends
    ...           what the format puts between
    ...           the documents, end to end

MDS and litdata write this form. Offsets are of 32 bits, and a reader fetches whole files: so a shard becomes as many as
it needs for some FILE_BYTES each, cut where blocks end. The index has them in the order of the documents, and is
written when all are there: before, no reader opens the folder.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bamba_data import canonical_json
from bamba_data.errors import UserError

from .appended_file import DamagedExport, write_whole
from .export_form import Written
from .export_record import ExportRecord
from .shard_files import ShardFiles, list_path
from .token_blocks import SourceShard, TokenBlock

FILE_BYTES = 1 << 26
MAX_OFFSET = 2**32 - 1


class Documents(NamedTuple):
    """Documents as they lie in a file: their bytes end to end, in pieces, and how many each of them has."""

    pieces: list[bytes | memoryview]
    sizes: npt.NDArray[np.int64]


class ListedFile(NamedTuple):
    """A file of a finished source: `path` is below its folder."""

    path: str
    size_bytes: int
    documents: int
    tokens: int


class OffsetFiles:
    """The files of one source below `out`, with `between` in each after the offsets."""

    def __init__(self, out: Path, source: str, ending: str, between: bytes = b"") -> None:
        self._out, self._source, self._between = out, source, between
        self._files = ShardFiles(out, source, ending)

    @property
    def folder(self) -> Path:
        return self._files.folder

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._files.open(record, resources)

    def write(
        self, shard: SourceShard, blocks: Iterator[TokenBlock], encode: Callable[[TokenBlock], Documents]
    ) -> Written:
        """A shard: `encode` says how its documents lie in a file.

        Raises:
            UserError: a file would need offsets of more than 32 bits.
        """
        documents = tokens = 0
        for number, (written, group) in enumerate(_groups(blocks, encode)):
            stem = f"{shard.stem}-{number:03d}"
            sizes = np.concatenate([one.sizes for one in group])
            start = 4 * (len(sizes) + 2) + len(self._between)
            offsets = start + np.concatenate([[0], np.cumsum(sizes)])
            if int(offsets[-1]) > MAX_OFFSET:
                raise UserError(
                    f"{shard.row['path']}: a block of it has {int(offsets[-1]):,} bytes, more than a file of this "
                    "format can address: export it --to megatron, arrow or nanoset"
                )
            with self._files.file(stem) as path, path.open("wb") as file:
                file.write(np.uint32(len(sizes)).astype("<u4").tobytes())
                file.write(offsets.astype("<u4").data)
                file.write(self._between)
                for one in group:
                    file.writelines(one.pieces)
            self._files.add(stem, written)
            documents += written.documents
            tokens += written.tokens
        return Written(documents, tokens)

    def sync(self) -> dict[str, int]:
        return self._files.sync()

    def write_index(self, make: Callable[[list[ListedFile]], object]) -> None:
        """Put what `make` says of all files into index.json.

        Raises:
            DamagedExport: a file that was written is not there any more.
        """
        write_whole(self.folder / "index.json", canonical_json.dumps(make(list(self._listed()))))

    def _listed(self) -> Iterator[ListedFile]:
        for line in (self._out / list_path(self._source)).read_text().splitlines():
            path, documents, tokens = line.rsplit(",", 2)
            place = self._out / path
            if not place.exists():
                raise DamagedExport(f"{place}: is not there any more: remove {self._out} and export again")
            yield ListedFile(place.name, place.stat().st_size, int(documents), int(tokens))


def _groups(
    blocks: Iterator[TokenBlock], encode: Callable[[TokenBlock], Documents]
) -> Iterator[tuple[Written, list[Documents]]]:
    """The blocks of each file, encoded: as many as reach FILE_BYTES, or what is left."""
    group: list[Documents] = []
    documents = tokens = size = 0
    for block in blocks:
        group.append(encode(block))
        documents += len(block.counts)
        tokens += len(block.ids)
        size += int(group[-1].sizes.sum())
        if size >= FILE_BYTES:
            yield Written(documents, tokens), group
            group, documents, tokens, size = [], 0, 0, 0
    if group:
        yield Written(documents, tokens), group
