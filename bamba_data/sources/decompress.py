"""Compressed bytes in, plain bytes out, with everything checked: each member's CRC and length, the end of the
stream, trailing garbage, the ratio, the window. A short or damaged stream is an error with its offset, never a
short read. Memory stays at a few chunks and one window, whatever is in the file.
"""

import bz2
import itertools
import lzma
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import zstandard
from isal import igzip_lib, isal_zlib

from bamba_data.errors import CorruptInput, InputTooLarge
from bamba_data.sources.compression import (
    HEAD_BYTES,
    MAGIC,
    MAX_WINDOW_BYTES,
    Choice,
    Compression,
    by_content,
    by_name,
    is_text,
)

CHUNK_BYTES = 1 << 20
RATIO_AFTER_BYTES = 64 << 20  # short files may compress as they like
MAX_LAYERS = 2  # a host that gzips what it sends gzips a .gz too
UNLIKE_NAME = "compression_unlike_name"
COMPRESSED_TWICE = "compressed_twice"
EMPTY_FILE = "empty_file"
EMPTY = "the file is empty (bad_input.empty_files: keep takes such files, and counts them)"


def inflate(
    chunks: Iterable[bytes],
    url: str,
    max_ratio: int,
    *,
    compression: Choice = "auto",
    max_window_bytes: int = MAX_WINDOW_BYTES,
    may_be_empty: bool = False,
    note: Callable[[str], None] = lambda name: None,
) -> Iterator[bytes]:
    """The plain bytes of a file named `url`, which may have any number of members.

    `compression` is what it must be; `auto` goes by its first bytes, and tells `note` where its name says otherwise.
    Raises CorruptInput or InputTooLarge; a file without a byte in it is corrupt, unless it may be empty.
    """
    head, chunks = peek(chunks)
    if not head:
        if may_be_empty:
            note(EMPTY_FILE)
            return
        raise CorruptInput(url, EMPTY, 0)
    limit = _Limit(url, max_ratio, max_window_bytes)
    chunks = limit.counted(chunks)
    if compression != "auto":
        if compression != "none" and not _begins_as(compression, head):
            begins = by_content(head) or ("text" if is_text(head) else "something else")
            raise CorruptInput(url, f"begins as {begins}, but the recipe says `compression: {compression}`", 0)
        yield from _one_layer(chunks, compression, limit)
        return
    compressed_with, named = by_content(head), by_name(url)
    if compressed_with is None and named != "none" and _begins_as(named, head):
        compressed_with = named  # cut off within its first bytes
    if compressed_with is None and named != "none" and not is_text(head):
        raise CorruptInput(url, f"its name says {named}, but it begins neither as that nor as text: it is damaged", 0)
    if (compressed_with or "none") != named:
        note(UNLIKE_NAME)
    for layer in range(MAX_LAYERS):
        if compressed_with is None:
            break
        head, chunks = peek(_one_layer(chunks, compressed_with, limit))
        compressed_with = by_content(head)
        if compressed_with is not None:
            if layer + 1 == MAX_LAYERS:
                raise CorruptInput(url, f"is compressed more than {MAX_LAYERS} times over", 0)
            note(COMPRESSED_TWICE)
    yield from chunks


def peek(chunks: Iterable[bytes], size_bytes: int = HEAD_BYTES) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a stream, and the stream with them still in it."""
    rest = iter(chunks)
    head = b""
    while len(head) < size_bytes and (chunk := next(rest, None)) is not None:
        head = head + chunk if head else chunk
    return head[:size_bytes], itertools.chain([head] if head else [], rest)


def _begins_as(compression: Compression, head: bytes) -> bool:
    """Also a head that is too short to tell."""
    magic = MAGIC.get(compression, b"")
    return by_content(head) == compression or (len(head) < max(len(magic), 10) and magic.startswith(head[: len(magic)]))


class _Limit:
    """How far a file may expand: all layers together against the bytes that lie in the file."""

    def __init__(self, url: str, max_ratio: int, max_window_bytes: int) -> None:
        self.url, self.max_window_bytes = url, max_window_bytes
        self._max_ratio, self._taken = max_ratio, 0

    def counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._taken += len(chunk)
            yield chunk

    def check(self, given: int) -> None:
        if given > RATIO_AFTER_BYTES and given > self._taken * self._max_ratio:
            detail = f"inflates more than {self._max_ratio} times (bad_input.max_inflate_ratio)"
            raise InputTooLarge(self.url, detail, self._taken)


class _Member(Protocol):
    """One member (gzip), frame (zstd) or stream (bz2, xz) of a file. `pads`: zeros may follow it."""

    pads: bool
    fault: Any

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Output in pieces of bounded size."""

    @property
    def rest(self) -> bytes | None:
        """What follows the member once it has ended; None before that."""


class _Gzip:
    """RFC 1952. isal checks CRC and length at the end. Zeros after a member are padding, as gzip itself has it."""

    pads = True
    fault: Any = igzip_lib.IsalError

    def __init__(self) -> None:
        self._inflater: Any = isal_zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._inflater.eof:
            yield self._inflater.decompress(data, CHUNK_BYTES)
            data = self._inflater.unconsumed_tail

    @property
    def rest(self) -> bytes | None:
        return self._inflater.unused_data if self._inflater.eof else None


class _Zstd:
    """RFC 8878. A frame is checked where it carries a checksum. Compressed input is fed by the KiB, because zstd's
    incremental interface has no output limit: 1 KiB in is at most 32 MiB out, at no cost in speed."""

    pads = False
    fault: Any = zstandard.ZstdError

    def __init__(self, max_window_bytes: int) -> None:
        self._inflater: Any = zstandard.ZstdDecompressor(max_window_size=max_window_bytes).decompressobj()
        self._rest: bytes | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 1024):
            yield self._inflater.decompress(data[start : start + 1024])
            if self._inflater.eof:
                self._rest = self._inflater.unused_data + data[start + 1024 :]
                return

    @property
    def rest(self) -> bytes | None:
        return self._rest


class _Stdlib:
    """bz2 and xz, by the standard library: each checks its blocks."""

    fault: Any = (OSError, lzma.LZMAError)

    def __init__(self, inflater: Any, pads: bool) -> None:
        self._inflater, self.pads = inflater, pads

    def feed(self, data: bytes) -> Iterator[bytes]:
        while not self._inflater.eof:
            yield self._inflater.decompress(data, CHUNK_BYTES)
            if self._inflater.needs_input:
                return
            data = b""

    @property
    def rest(self) -> bytes | None:
        return self._inflater.unused_data if self._inflater.eof else None


def _new_member(compression: Compression, max_window_bytes: int) -> _Member:
    if compression == "gzip":
        return _Gzip()
    if compression == "zstd":
        return _Zstd(max_window_bytes)
    if compression == "bz2":
        return _Stdlib(bz2.BZ2Decompressor(), pads=False)
    # What xz needs beside its dictionary is some 100 KiB.
    memory = max_window_bytes + (1 << 20)
    return _Stdlib(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory), pads=True)


_TOO_MUCH = ("too much memory", "Memory usage limit")


def _one_layer(chunks: Iterable[bytes], compression: Compression, limit: _Limit) -> Iterator[bytes]:
    """Member after member to the end of the file, counting bytes in and out."""
    if compression == "none":
        yield from chunks
        return
    url = limit.url
    member: _Member | None = None
    taken = given = members = 0
    pads = False
    for chunk in chunks:
        taken += len(chunk)
        while chunk:
            if member is None:
                chunk = chunk.lstrip(b"\0") if pads else chunk
                if not chunk:
                    break
                member = _new_member(compression, limit.max_window_bytes)
                if members and not MAGIC[compression].startswith(chunk[:2]) and compression != "zstd":
                    raise CorruptInput(url, "garbage after the end of the compressed data", taken - len(chunk))
            try:
                for piece in member.feed(chunk):
                    given += len(piece)
                    limit.check(given)
                    for start in range(0, len(piece), CHUNK_BYTES):
                        yield piece[start : start + CHUNK_BYTES]
            except member.fault as error:
                if any(words in str(error) for words in _TOO_MUCH):
                    raise InputTooLarge(
                        url,
                        f"needs a {compression} window beyond {limit.max_window_bytes:,} bytes: let it have one with "
                        f"bad_input.max_window_bytes, at most {1 << 31:,}",
                        taken,
                    ) from None
                raise CorruptInput(url, f"damaged compressed data ({error})", taken) from None
            if member.rest is None:
                break
            chunk, pads, member, members = member.rest, member.pads, None, members + 1
    if member is not None:
        raise CorruptInput(url, f"truncated: ends inside compressed member {members + 1}", taken)
