"""Lines come out with their number and place however the bytes were cut, and none of them can fill the memory."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.document import RAW_BYTES
from bamba_data.sources.lines import Line, read_lines
from tests.bamba_data.memory import grown

LIMIT = 16


def expected(data: bytes, limit: int) -> list[Line]:
    """The obvious way, with everything in memory."""
    found, offset = [], 0
    for row, line in enumerate(data.split(b"\n")):
        if len(line) > limit:
            found.append(Line(row, offset, line[:RAW_BYTES], len(line), hashlib.sha256(line).hexdigest()))
        elif line.strip():
            found.append(Line(row, offset, line, len(line)))
        offset += len(line) + 1
    return found


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    pieces = st.sampled_from([b"\n", b"\r\n", b" ", b"a", b"bc", b'{"text": "x"}', b"x" * 9, b"y" * 30, b"\xff"])
    data = b"".join(draw(st.lists(pieces, max_size=30)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(chunks=chunked())
@settings(max_examples=500, deadline=None)
def test_however_the_bytes_are_cut_the_lines_are_the_same(chunks: list[bytes]) -> None:
    assert list(read_lines(chunks, LIMIT)) == expected(b"".join(chunks), LIMIT)


def test_a_carriage_return_stays_in_the_line() -> None:
    assert [line.data for line in read_lines([b"one\r\ntwo\r\n"], LIMIT)] == [b"one\r", b"two\r"]


def test_blank_lines_keep_their_number_and_are_not_given_out() -> None:
    lines = list(read_lines([b"a\n\n \t\r\nb\n"], LIMIT))
    assert [(line.row, line.offset, line.data) for line in lines] == [(0, 0, b"a"), (3, 7, b"b")]


def test_a_last_line_without_a_newline_is_a_line() -> None:
    assert [line.data for line in read_lines([b"a\nb"], LIMIT)] == [b"a", b"b"]


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert list(read_lines([b"x" * LIMIT + b"\n"], LIMIT)) == [Line(0, 0, b"x" * LIMIT, LIMIT)]


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1000, LIMIT])
def test_a_line_too_long_gives_its_head_its_length_and_its_digest_and_harms_no_other(chunk_bytes: int) -> None:
    long = bytes(range(11, 256)) * 5_000
    data = b"before\n" + long + b"\nafter\n"
    chunks = (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))
    assert list(read_lines(chunks, LIMIT)) == [
        Line(0, 0, b"before", 6),
        Line(1, 7, long[:RAW_BYTES], len(long), hashlib.sha256(long).hexdigest()),
        Line(2, 8 + len(long), b"after", 5),
    ]


def test_the_key_of_a_line_tells_lines_too_long_apart_by_all_of_their_bytes() -> None:
    keys = {
        line.key for tail in (b"1", b"2") for line in read_lines([b"x" * (RAW_BYTES + 10) + tail + b"\n"], RAW_BYTES)
    }
    assert len(keys) == 2


ONE_LINE = """
from bamba_data.sources.lines import read_lines
def chunks():
    yield b"before\\n"
    chunk = b"x" * (1 << 20)
    for _ in range(256):
        yield chunk
    yield b"\\nafter\\n"
before = peak()
lines = [(line.row, line.offset, line.whole_bytes) for line in read_lines(chunks(), 32 << 20)]
done(lines, before)
"""


def test_a_line_of_256_megabytes_takes_no_more_memory_than_the_limit_allows() -> None:
    lines, size_bytes = grown(ONE_LINE)
    assert lines == [[0, 0, 6], [1, 7, 256 << 20], [2, 8 + (256 << 20), 5]]
    assert size_bytes < 48 << 20
