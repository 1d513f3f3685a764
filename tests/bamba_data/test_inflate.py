"""What was compressed comes out whole, or the damage is named; and no file decides how much memory it takes."""

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data import inflate as inflating
from bamba_data.errors import CorruptInput, InputTooLarge
from bamba_data.inflate import inflate
from tests.bamba_data.memory import grown

PROSE = b"".join(b'{"id": "%d", "text": "Call me Ishmael, for the %dth time."}\n' % (n, n) for n in range(40))
NAMES = {"gzip": "books-0000.json.gz", "zstd": "books-0000.jsonl.zst"}


def compressed(form: str, data: bytes = PROSE) -> bytes:
    if form == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def plain(form: str, data: bytes, chunk_bytes: int = 1 << 20, max_ratio: int = 200) -> bytes:
    return b"".join(inflate(cut(data, chunk_bytes), NAMES[form], max_ratio))


@pytest.fixture(params=["gzip", "zstd"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@given(
    form=st.sampled_from(["gzip", "zstd"]),
    members=st.lists(st.binary(max_size=300) | st.integers(0, 9000).map(lambda n: b"ab\n" * n), min_size=1, max_size=5),
    chunk_bytes=st.integers(1, 4000),
    piece_bytes=st.sampled_from([1, 7, 4096]),
)
@settings(max_examples=150, deadline=None)
def test_any_members_in_any_chunks_come_out_as_they_went_in(
    form: str, members: list[bytes], chunk_bytes: int, piece_bytes: int
) -> None:
    data = b"".join(compressed(form, member) for member in members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inflating, "CHUNK_BYTES", piece_bytes if len(b"".join(members)) < 2000 else 4096)
        assert plain(form, data, chunk_bytes) == b"".join(members)


def test_zstd_frames_that_are_to_be_skipped_are_skipped() -> None:
    note = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    assert plain("zstd", note + compressed("zstd") + note + compressed("zstd") + note) == PROSE * 2


def test_a_file_of_another_name_passes_as_it_is() -> None:
    assert list(inflate([b"ab", b"c"], "https://host/books.jsonl", 200)) == [b"ab", b"c"]


def test_the_form_is_told_by_the_name_in_either_case() -> None:
    assert b"".join(inflate([compressed("gzip")], "https://host/folder.zst/BOOKS.JSON.GZ", 200)) == PROSE


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
def test_a_file_that_is_truncated_at_any_byte_is_named_with_its_offset(form: str, chunk_bytes: int) -> None:
    whole = compressed(form) + compressed(form, PROSE[:100])
    edge = len(compressed(form))
    for length in range(1, len(whole)):
        if length != edge:
            with pytest.raises(CorruptInput) as caught:
                plain(form, whole[:length], chunk_bytes)
            assert (caught.value.url, caught.value.offset, "truncated" in caught.value.detail) == (
                NAMES[form],
                length,
                True,
            )


def test_every_flipped_bit_of_the_compressed_data_is_an_error(form: str) -> None:
    whole = compressed(form)
    # of gzip's header only the magic, the method and the flags mean anything; of time, level and system nothing does
    idle = set(range(4, 10)) if form == "gzip" else set()
    for byte in set(range(len(whole))) - idle:
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[byte] ^= 1 << bit
            try:
                found = plain(form, bytes(damaged))
            except CorruptInput:
                continue
            assert found == PROSE, (byte, bit)  # e.g. gzip's flag "this is text": it says nothing of the bytes


def test_a_wrong_checksum_is_named_as_damage(form: str) -> None:
    whole = bytearray(compressed(form))
    whole[-1 if form == "zstd" else -6] ^= 1
    with pytest.raises(CorruptInput, match="damaged compressed data"):
        plain(form, bytes(whole))


@pytest.mark.parametrize("garbage", [b"\0", b"\0" * 512, b"hello", b"\x1f", b"\x1f\x8b", b'{"text": "x"}\n', b"PK\3\4"])
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
def test_garbage_and_zeros_after_the_end_are_an_error(form: str, garbage: bytes, chunk_bytes: int) -> None:
    with pytest.raises(CorruptInput) as caught:
        plain(form, compressed(form) + garbage, chunk_bytes)
    assert (caught.value.offset or 0) >= len(compressed(form))


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 100, 2])
def test_garbage_after_gzip_is_called_so_with_the_place_where_it_begins(chunk_bytes: int) -> None:
    with pytest.raises(CorruptInput, match="garbage after the end of the compressed data at byte"):
        plain("gzip", compressed("gzip") + b"garbage", chunk_bytes)


@pytest.mark.parametrize("url", ["a.json.gz", "a.jsonl.zst", "a.jsonl"])
@pytest.mark.parametrize("chunks", [[], [b""]])
def test_a_file_without_a_byte_is_corrupt(url: str, chunks: list[bytes]) -> None:
    with pytest.raises(CorruptInput, match="the file is empty"):
        list(inflate(chunks, url, 200))


def test_plain_text_under_a_compressed_name_is_damage_at_its_first_chunk(form: str) -> None:
    with pytest.raises(CorruptInput, match="damaged"):
        plain(form, PROSE)


def bomb(form: str, size_bytes: int) -> bytes:
    return compressed(form, bytes(size_bytes))


def test_a_bomb_is_stopped_at_the_ratio_and_not_at_its_end(form: str) -> None:
    data = bomb(form, 160 << 20)
    given_out = 0
    with pytest.raises(InputTooLarge, match=r"more than 200 times \(bad_input\.max_inflate_ratio\)"):
        for piece in inflate(cut(data, 1 << 16), NAMES[form], 200):
            given_out += len(piece)
    assert given_out <= 128 << 20


def test_a_short_file_may_compress_as_well_as_it_likes(form: str) -> None:
    assert len(plain(form, bomb(form, 8 << 20), max_ratio=2)) == 8 << 20


def test_a_bomb_made_of_many_members_is_stopped_too(form: str) -> None:
    with pytest.raises(InputTooLarge):
        for _ in inflate(cut(bomb(form, 1 << 20) * 200, 1 << 10), NAMES[form], 100):
            pass


def test_a_zstd_window_beyond_the_limit_is_refused_before_it_is_allocated() -> None:
    # magic, then a frame header without content size, whose window is 2 GiB, then an empty last block
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x01\0\0"
    with pytest.raises(InputTooLarge, match="window"):
        plain("zstd", frame)


ALL_LINES = """
from bamba_data.inflate import inflate
from bamba_data.lines import read_lines
path = Path(sys.argv[1])
data, before = path.read_bytes(), peak()
done(sum(1 for line in read_lines(inflate([data], path.name, 10**6), 4 << 20)), before)
"""


@pytest.mark.parametrize(
    ("unit", "times"), [(b"\n", 8 << 20), (b"{}\n", 1 << 20), (b"a", 48 << 20), (b'"' + b"a" * 100_000 + b'"\n', 500)]
)
def test_memory_stays_small_whatever_is_in_a_bomb(form: str, unit: bytes, times: int, tmp_path: Path) -> None:
    path = tmp_path / NAMES[form]
    path.write_bytes(compressed(form, unit * times))
    _, size_bytes = grown(ALL_LINES, path)
    assert size_bytes < 80 << 20


def test_random_bytes_never_end_in_anything_but_a_typed_error(form: str) -> None:
    dice = random.Random(0)
    magic = compressed(form)[:4]
    for _ in range(300):
        noise = magic[: dice.randrange(5)] + dice.randbytes(dice.randrange(1, 200))
        with pytest.raises(CorruptInput):
            plain(form, noise, chunk_bytes=dice.randrange(1, 64))
