"""Token files of datatrove (nanotron's Nanoset), read in bounded memory by somebody who does not believe them.

    <stem>.ds            ids end to end, unsigned, of 2 or 4 bytes
    <stem>.ds.index      uint64: where each document ends, in ids from the beginning of the file
    <stem>.ds.metadata   text: <tokenizer>|<bytes an id>, ids in the file, the same for people; may be missing

The whole index is checked before the first id is read: that it goes upwards, and ends where the ids end. Ids are
checked as they are read. Source: `TokenizedFile` of datatrove 0.10.

What changes the meaning of the ids is refused: a mask (`.ds.loss`), and a file without an index, as datatrove's context
shuffler writes, whose windows no longer belong to their documents. Files whose documents were shuffled are read: their
index was written anew. Where `shuffle_chunk_size` cut documents, pieces do not end as documents do, and an import by
their delimiters refuses them.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import CorruptInput, WrongForm
from bamba_data.tokenization.tokenizer import Tokenizer

from .token_input import MAX_DOCUMENT_TOKENS, check_ids

PIECE_DOCUMENTS = 1 << 14  # whose ends are in memory at once
MAX_METADATA_BYTES = 1 << 16
_END = np.dtype("<u8")
_HEAD = re.compile(r"^(?P<tokenizer>.*)\|(?P<size>\d+)$")


@dataclass(frozen=True)
class DatatroveFile:
    """A `.ds` file whose index has been checked; implements `TokenInput`. `tokenizer` is as its metadata name it."""

    ids: Path
    beside: tuple[tuple[Path, str], ...]
    dtype: np.dtype[Any]
    documents: int
    tokens: int
    tokenizer: str | None

    @property
    def name(self) -> str:
        return self.ids.stem

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise WrongForm where the file says that its ids are another tokenizer's: by a digest, or by their width."""
        said = self.tokenizer or ""
        if said.startswith("sha256:") and said != f"sha256:{tokenizer.sha256}":
            raise WrongForm(
                str(self.ids),
                f"its metadata name the tokenizer {said[:19]}…, and the one that was given is sha256:"
                f"{tokenizer.sha256[:12]}…",
                "give the tokenizer that made these files",
            )
        if tokenizer.vocab_size > 1 << (8 * self.dtype.itemsize):
            named = f" (their metadata name {said!r})" if said else ""
            raise WrongForm(
                str(self.ids),
                f"its ids have {self.dtype.itemsize} bytes, too few for a tokenizer of {tokenizer.vocab_size:,}{named}",
                "give the tokenizer that made these files",
            )

    def read(self, digest: Any, vocab_size: int) -> Iterator[NDArray[Any]]:
        """As `TokenInput.read`."""
        number = begin = 0
        with self.ids.open("rb", buffering=1 << 20) as file:
            for ends in _ends(index_path(self.ids)):
                for end in ends.tolist():
                    data = file.read((end - begin) * self.dtype.itemsize)
                    if len(data) != (end - begin) * self.dtype.itemsize:
                        raise CorruptInput(str(self.ids), "ends before its last document", file.tell())
                    digest.update(data)
                    ids = np.frombuffer(data, self.dtype)
                    check_ids(self.ids, ids, number, vocab_size)
                    yield ids
                    number, begin = number + 1, end


def index_path(ids: Path) -> Path:
    return ids.with_name(f"{ids.name}.index")


def metadata_path(ids: Path) -> Path:
    return ids.with_name(f"{ids.name}.metadata")


def datatrove_files(place: Path) -> list[Path]:
    """The `.ds` files that are meant: all of a folder, in the order of their names, as datatrove reads them; or one.

    Raises:
        WrongForm: the folder has none.
        FileNotFoundError: neither a folder nor a file is there.
    """
    if place.is_dir():
        if files := sorted(place.glob("*.ds")):
            return files
        raise WrongForm(str(place), "has no file that ends in .ds", "name a folder of datatrove's token files, or one")
    ids = place if place.suffix == ".ds" else place.with_name(f"{place.name}.ds")
    ids.stat()
    return [ids]


def open_datatrove_file(ids: Path) -> DatatroveFile:
    """Open a `.ds` file, and check all that its index and its metadata say.

    Raises:
        WrongForm: it has no index, a mask, or something beside it that is not known; its ids are of no known width.
        CorruptInput: it is cut short, or index, metadata and ids contradict each other.
    """
    _refuse_companions(ids)
    index, size_bytes = index_path(ids), ids.stat().st_size
    documents, rest = divmod(index.stat().st_size, _END.itemsize)
    if rest:
        raise CorruptInput(str(index), f"has {index.stat().st_size:,} bytes, no multiple of 8: it is cut short")
    tokens = 0
    for ends in _ends(index):
        lengths = np.diff(ends.astype(np.int64), prepend=np.int64(tokens))
        if int(ends.max()) >= 1 << 62 or int(lengths.min()) < 0:
            raise CorruptInput(str(index), "its documents do not end one after another: it is damaged, or no index")
        if int(lengths.max()) > MAX_DOCUMENT_TOKENS:
            said = f"has a document of {int(lengths.max()):,} ids"
            raise WrongForm(str(index), said, f"{MAX_DOCUMENT_TOKENS:,} at most")
        tokens = int(ends[-1])
    tokenizer, width = _metadata(ids, tokens)
    width = width or (size_bytes // tokens if tokens else 2)
    if width not in (2, 4):
        raise CorruptInput(
            str(ids), f"has {size_bytes:,} bytes, its index names {tokens:,} ids: that is neither 2 nor 4 bytes an id"
        )
    if tokens * width != size_bytes:
        raise CorruptInput(
            str(ids),
            f"has {size_bytes:,} bytes, its index names {tokens:,} ids of {width} bytes: it is cut short or of "
            "another index",
        )
    beside = [path for path in (index, metadata_path(ids)) if path.exists()]
    return DatatroveFile(
        ids, tuple((path, _sha256(path)) for path in beside), np.dtype(f"<u{width}"), documents, tokens, tokenizer
    )


def _refuse_companions(ids: Path) -> None:
    known = {index_path(ids), metadata_path(ids)}
    for path in sorted(ids.parent.glob(f"{_escaped(ids.name)}.*")):
        if path.name == f"{ids.name}.loss":
            said = "says which ids are no targets (save_loss_metadata), and shards hold no masks"
            raise WrongForm(str(path), said, "make the files without it; move it away to train on all ids")
        if path not in known:
            raise WrongForm(str(path), "is beside token files and not known", "move it away if the ids mean the same")
    if not index_path(ids).exists():
        raise WrongForm(
            str(ids),
            "has no .index, which says where its documents end; datatrove's context shuffler writes none, for its "
            "windows are of no document any more",
            "give the files of DocumentTokenizer or DocumentTokenizerMerger, with save_index",
        )


def _metadata(ids: Path, tokens: int) -> tuple[str | None, int | None]:
    """(the tokenizer's name, bytes an id) as the metadata say; None each where there are none."""
    path = metadata_path(ids)
    if not path.exists():
        return None, None
    with path.open("rb") as file:
        lines = file.read(MAX_METADATA_BYTES).decode("utf-8", "replace").split("\n")
    head = _HEAD.match(lines[0])
    if head is None or head["size"] not in ("2", "4") or len(lines) < 2 or not lines[1].isdecimal():
        raise WrongForm(
            str(path),
            f"begins with {lines[0][:80]!r}",
            "its lines must be <tokenizer>|<2 or 4 bytes an id>, and how many ids: without it the width is taken from "
            "the sizes of ids and index",
        )
    if int(lines[1]) != tokens:
        raise CorruptInput(str(path), f"says {int(lines[1]):,} ids, the index {tokens:,}")
    return head["tokenizer"], int(head["size"])


def _ends(index: Path) -> Iterator[NDArray[np.uint64]]:
    """Where documents end, some PIECE_DOCUMENTS at a time."""
    with index.open("rb") as file:
        while data := file.read(PIECE_DOCUMENTS * _END.itemsize):
            yield np.frombuffer(data, _END)


def _escaped(name: str) -> str:
    return re.sub(r"([\[?*])", r"[\1]", name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
