"""For formats of one file a shard: `dataset=<source>/<stem><ending>`, each whole or absent, and a list of them.

The list, `meta/files-<source>.csv`, grows by a line a shard: path below the folder, documents, ids. It stays, and other
sources that are exported to the same folder later read it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bamba_data.format.layout import shard_folder
from bamba_data.storage.local_disk import naming

from .appended_file import AppendedFile, put_in_place
from .export_form import Written
from .export_record import META, ExportRecord


def list_path(source: str) -> str:
    return f"{META}/files-{source}.csv"


class ShardFiles:
    """The files of one source below `out`."""

    def __init__(self, out: Path, source: str, ending: str) -> None:
        self.folder, self._ending = out / shard_folder(source), ending
        self._out, self._list_name = out, list_path(source)

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        size = record.file_bytes.get(self._list_name, 0)
        self._list = resources.enter_context(AppendedFile(self._out / self._list_name, size))

    @contextmanager
    def file(self, stem: str, ending: str | None = None) -> Iterator[Path]:
        """Where to write a shard, or what goes beside it with another `ending`; it is in its place when the block has
        ended without an exception."""
        path = self.folder / f"{stem}{self._ending if ending is None else ending}"
        part = path.with_name(f"{path.name}.part")
        with naming(path):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            put_in_place(part, path)

    def add(self, stem: str, written: Written) -> None:
        """Put the shard on the list."""
        path = f"{self.folder.name}/{stem}{self._ending}"
        self._list.write(f"{path},{written.documents},{written.tokens}\n".encode())

    def sync(self) -> dict[str, int]:
        return {self._list_name: self._list.sync()}
