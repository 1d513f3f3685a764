"""Compressed bytes in, plain bytes out, with everything checked: each member's CRC and length, the end of the
stream, trailing garbage, the ratio, the zstd window. A short or damaged stream is an error with its offset,
never a short read. Memory stays at a few chunks, whatever is in the file.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zstandard
from isal import igzip_lib, isal_zlib

from bamba_data.errors import CorruptInput, InputTooLarge

CHUNK_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 27  # what zstd itself allows without --long
RATIO_AFTER_BYTES = 64 << 20  # short files may compress as they like


def inflate(chunks: Iterable[bytes], url: str, max_ratio: int) -> Iterator[bytes]:
    """The plain bytes of a file named `url`: `.gz` and `.zst` (any number of members) are inflated, the rest
    passes as it is. Raises CorruptInput or InputTooLarge; a file without a byte in it is corrupt."""
    name = url.rpartition("/")[2].lower()
    if name.endswith(".gz"):
        return _members(chunks, url, max_ratio, _Gzip)
    if name.endswith((".zst", ".zstd")):
        return _members(chunks, url, max_ratio, _Zstd)
    return _plain(chunks, url)


def _plain(chunks: Iterable[bytes], url: str) -> Iterator[bytes]:
    empty = True
    for chunk in chunks:
        empty = empty and not chunk
        yield chunk
    if empty:
        raise CorruptInput(url, "the file is empty", 0)


class _Gzip:
    """One gzip member. `feed` gives output in pieces of bounded size; isal checks CRC and length at the end."""

    magic = b"\x1f\x8b"
    fault: Any = igzip_lib.IsalError

    def __init__(self) -> None:
        self._inflater: Any = isal_zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._inflater.eof:
            yield self._inflater.decompress(data, CHUNK_BYTES)
            data = self._inflater.unconsumed_tail

    @property
    def rest(self) -> bytes | None:
        """What follows the member once it has ended; None before that."""
        return self._inflater.unused_data if self._inflater.eof else None


class _Zstd:
    """One zstd frame (checked where it carries a checksum). Compressed input is fed by the KiB, because zstd's
    incremental interface has no output limit: 1 KiB in is at most 32 MiB out, at no cost in speed."""

    magic = b""
    fault: Any = zstandard.ZstdError

    def __init__(self) -> None:
        self._inflater: Any = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
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


def _members(chunks: Iterable[bytes], url: str, max_ratio: int, new: Callable[[], _Gzip | _Zstd]) -> Iterator[bytes]:
    """Member after member to the end of the file, counting bytes in and out."""
    member: _Gzip | _Zstd | None = None
    taken = given = members = 0
    for chunk in chunks:
        taken += len(chunk)
        while chunk:
            if member is None:
                member = new()
                if members and not member.magic.startswith(chunk[: len(member.magic)][:2]):
                    raise CorruptInput(url, "garbage after the end of the compressed data", taken - len(chunk))
            try:
                for piece in member.feed(chunk):
                    given += len(piece)
                    if given > RATIO_AFTER_BYTES and given > taken * max_ratio:
                        raise InputTooLarge(
                            url, f"inflates more than {max_ratio} times (bad_input.max_inflate_ratio)", taken
                        )
                    for start in range(0, len(piece), CHUNK_BYTES):
                        yield piece[start : start + CHUNK_BYTES]
            except member.fault as error:
                if "too much memory" in str(error):
                    raise InputTooLarge(url, f"needs a zstd window beyond {MAX_WINDOW_BYTES:,} bytes", taken) from None
                raise CorruptInput(url, f"damaged compressed data ({error})", taken) from None
            if member.rest is None:
                break
            chunk, member, members = member.rest, None, members + 1
    if taken == 0:
        raise CorruptInput(url, "the file is empty", 0)
    if member is not None:
        raise CorruptInput(url, f"truncated: ends inside compressed member {members + 1}", taken)
