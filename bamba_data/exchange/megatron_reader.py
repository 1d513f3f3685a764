"""Megatron's token files, read in bounded memory by somebody who does not believe them.

The whole index is checked before the first id is read: its sizes, that sequences lie end to end in the .bin file and
fill it, and that the document index goes from the first sequence to the last. Ids are checked as they are read.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import CorruptInput, WrongForm

from .megatron_index import DTYPES, HEADER_BYTES, VERSION, IndexHeader
from .token_input import MAX_DOCUMENT_TOKENS, check_ids

PIECE_DOCUMENTS = 1 << 14  # whose lengths are in memory at once
_LITTLE = {"sequence": "<i4", "pointer": "<i8", "document": "<i8"}


@dataclass(frozen=True)
class TokenFile:
    """A pair of files, whose index has been checked; implements `TokenInput`. `tokens` are what it says that the .bin
    file holds."""

    prefix: Path
    dtype: np.dtype[Any]
    sequences: int
    documents: int
    tokens: int
    index_sha256: str

    @property
    def bin(self) -> Path:
        return bin_path(self.prefix)

    @property
    def ids(self) -> Path:
        return self.bin

    @property
    def beside(self) -> tuple[tuple[Path, str], ...]:
        return ((self.idx, self.index_sha256),)

    @property
    def name(self) -> str:
        return self.prefix.name

    @property
    def idx(self) -> Path:
        return idx_path(self.prefix)

    def read(self, digest: Any, vocab_size: int) -> Iterator[NDArray[Any]]:
        """As `TokenInput.read`, in the order of the document index."""
        with self.bin.open("rb", buffering=1 << 20) as file:
            number = 0
            for piece in _lengths(self.idx, self.sequences, self.documents + 1):
                for tokens in piece.tolist():
                    data = file.read(tokens * self.dtype.itemsize)
                    if len(data) != tokens * self.dtype.itemsize:
                        raise CorruptInput(str(self.bin), "ends before its last document", file.tell())
                    digest.update(data)
                    ids = np.frombuffer(data, self.dtype)
                    check_ids(self.bin, ids, number, vocab_size)
                    yield ids
                    number += 1


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.idx")


def open_token_file(prefix: Path) -> TokenFile:
    """Open `<prefix>.bin` and `<prefix>.idx`, and check all that the index says.

    Raises:
        FileNotFoundError: one of them is not there.
        WrongForm: they are no token files of Megatron, or of a kind that holds no text.
        CorruptInput: they are cut short, or the index contradicts itself or the .bin file.
    """
    idx, bin_ = idx_path(prefix), bin_path(prefix)
    where, bin_bytes, idx_bytes = str(idx), bin_.stat().st_size, idx.stat().st_size
    with idx.open("rb") as file:
        header = IndexHeader.parse(file.read(HEADER_BYTES))
    if header is None:
        raise WrongForm(where, "is no index of Megatron's token files", "it must begin with MMIDIDX")
    if header.version != VERSION:
        raise WrongForm(where, f"is an index of version {header.version}", f"version {VERSION} is read")
    if header.code not in DTYPES:
        known = ", ".join(f"{code} ({name})" for code, name in DTYPES.items())
        raise WrongForm(where, f"says type {header.code} for its ids", f"the types are {known}")
    dtype = np.dtype(DTYPES[header.code]).newbyteorder("<")
    if dtype.kind == "f":
        raise WrongForm(where, f"says type {header.code} ({DTYPES[header.code]})", "ids are whole numbers")
    if idx_bytes == header.size_bytes + header.sequences and header.sequences:
        raise WrongForm(where, "has a mode for each sequence", "files of text and images together are not read")
    if idx_bytes != header.size_bytes:
        said = f"has {idx_bytes:,} bytes, {header.sequences:,} sequences and {header.document_entries:,} entries of "
        raise CorruptInput(where, f"{said}documents need {header.size_bytes:,}: it is cut short or damaged")
    if header.document_entries < 1:
        raise CorruptInput(where, "has no document index")
    tokens = _check_index(idx, header, dtype.itemsize)
    if tokens * dtype.itemsize != bin_bytes:
        raise CorruptInput(
            str(bin_),
            f"has {bin_bytes:,} bytes, its index names {tokens:,} ids of {dtype.itemsize} bytes: it is cut short or of "
            "another index",
        )
    with idx.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TokenFile(prefix, dtype, header.sequences, header.document_entries - 1, tokens, digest)


def _check_index(idx: Path, header: IndexHeader, item_bytes: int) -> int:
    """Raise CorruptInput if the tables of the index contradict each other; how many ids it names."""
    where, n = str(idx), header.sequences
    offset = 0
    for lengths, pointers in zip(
        _table(idx, "sequence", HEADER_BYTES, n), _table(idx, "pointer", HEADER_BYTES + 4 * n, n), strict=True
    ):
        if len(lengths) and int(lengths.min()) < 0:
            raise CorruptInput(where, "a sequence has a length below zero")
        sizes = lengths.astype(np.int64) * item_bytes
        ends = offset + np.cumsum(sizes)
        if not np.array_equal(ends - sizes, pointers):
            raise CorruptInput(where, "its sequences do not lie end to end in the .bin file")
        offset = int(ends[-1]) if len(ends) else offset
    last = 0
    for number, entries in enumerate(_table(idx, "document", HEADER_BYTES + 12 * n, header.document_entries)):
        if (number == 0 and entries[0] != 0) or entries[0] < last or (np.diff(entries) < 0).any():
            raise CorruptInput(where, "its document index does not go from sequence 0 upwards")
        last = int(entries[-1])
    if last != n:
        raise CorruptInput(where, f"its document index ends at sequence {last:,} of {n:,}")
    return offset // item_bytes


def _table(idx: Path, kind: str, start: int, count: int) -> Iterator[NDArray[Any]]:
    """A table of the index, some PIECE_DOCUMENTS entries at a time."""
    dtype = np.dtype(_LITTLE[kind])
    with idx.open("rb") as file:
        file.seek(start)
        for first in range(0, count, PIECE_DOCUMENTS):
            wanted = min(PIECE_DOCUMENTS, count - first) * dtype.itemsize
            data = file.read(wanted)
            if len(data) != wanted:
                raise CorruptInput(str(idx), "was cut while it was read", file.tell())
            yield np.frombuffer(data, dtype)


def _lengths(idx: Path, sequences: int, entries: int) -> Iterator[NDArray[np.int64]]:
    """Ids of each document, int64, a piece at a time: the sum over its sequences."""
    with idx.open("rb") as file:
        first = 0  # the sequence where the next document begins
        for number, piece in enumerate(_table(idx, "document", HEADER_BYTES + 12 * sequences, entries)):
            ends = piece[1:] if number == 0 else piece  # the very first entry ends no document
            if not len(ends):
                continue
            file.seek(HEADER_BYTES + 4 * first)
            lengths = np.frombuffer(file.read(4 * (int(ends[-1]) - first)), "<i4")
            sums = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            tokens = np.diff(sums[np.concatenate([[first], ends]) - first])
            if int(tokens.max()) > MAX_DOCUMENT_TOKENS:
                raise WrongForm(
                    str(idx), f"has a document of {int(tokens.max()):,} ids", f"{MAX_DOCUMENT_TOKENS:,} at most"
                )
            yield tokens
            first = int(ends[-1])
