"""Plain bytes in, lines out, each with its number and offset; a line beyond a limit never sits in memory.

A line ends at a newline or at the end of the file. Blank lines keep their number and are not given out.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bamba_data.document import RAW_BYTES


class Line(NamedTuple):
    """`data` without its newline. For a line beyond the limit: only its head, with `whole_bytes` and
    `whole_sha256` of all of it; otherwise those are its length and ""."""

    row: int
    offset: int
    data: bytes
    whole_bytes: int
    whole_sha256: str = ""

    @property
    def key(self) -> bytes:
        """What a digest over lines takes of this one."""
        return self.whole_sha256.encode() or self.data


def read_lines(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[Line]:
    """The lines of a file. Memory is one chunk and one line of at most `max_line_bytes`; of a longer line the first
    RAW_BYTES are kept, its length and sha256 are of all of it."""
    row = offset = 0
    parts: list[bytes] = []  # of a line that goes on into the next chunk
    tail_bytes = 0
    oversize: _Oversize | None = None
    for chunk in chunks:
        *ended, tail = chunk.split(b"\n")
        for piece in ended:
            if oversize:
                oversize.update(piece)
                yield oversize.line(row, offset)
                offset += oversize.size_bytes + 1
                oversize = None
            else:
                if parts:
                    parts.append(piece)
                    piece = b"".join(parts)
                    parts, tail_bytes = [], 0
                if len(piece) > max_line_bytes:
                    yield _Oversize([piece]).line(row, offset)
                elif piece and not piece.isspace():
                    yield Line(row, offset, piece, len(piece))
                offset += len(piece) + 1
            row += 1
        if oversize:
            oversize.update(tail)
        elif tail:
            parts.append(tail)
            tail_bytes += len(tail)
            if tail_bytes > max_line_bytes:
                oversize, parts, tail_bytes = _Oversize(parts), [], 0
    if oversize:
        yield oversize.line(row, offset)
    elif parts:
        last = b"".join(parts)
        if not last.isspace():
            yield Line(row, offset, last, len(last))


class _Oversize:
    """A line too long to hold: its head, its length, its digest."""

    def __init__(self, parts: list[bytes]) -> None:
        self.head = b""
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        for part in parts:
            self.update(part)

    def update(self, part: bytes) -> None:
        if len(self.head) < RAW_BYTES:
            self.head += part[: RAW_BYTES - len(self.head)]
        self.size_bytes += len(part)
        self._sha256.update(part)

    def line(self, row: int, offset: int) -> Line:
        return Line(row, offset, self.head, self.size_bytes, self._sha256.hexdigest())
