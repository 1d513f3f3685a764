"""What was compressed comes out whole, or the damage is named; and no file decides how much memory it takes."""

import bz2
import gzip
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bamba_data.errors import CorruptInput, InputTooLarge
from bamba_data.sources import decompress as inflating
from bamba_data.sources.compression import MAGIC, is_text
from bamba_data.sources.decompress import inflate
from tests.bamba_data.memory import grown

PROSE = b"".join(b'{"id": "%d", "text": "Call me Ishmael, for the %dth time."}\n' % (n, n) for n in range(40))
NAMES = {
    "gzip": "books-0000.json.gz",
    "zstd": "books-0000.jsonl.zst",
    "bz2": "books-0000.jsonl.bz2",
    "xz": "books-0000.jsonl.xz",
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


def compressed(form: str, data: bytes = PROSE) -> bytes:
    return COMPRESS[form](data)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def plain(form: str, data: bytes, chunk_bytes: int = 1 << 20, max_ratio: int = 200) -> bytes:
    return b"".join(inflate(cut(data, chunk_bytes), NAMES[form], max_ratio))


def read_as(name: str, data: bytes, **options: Any) -> tuple[bytes, list[str]]:
    """What comes out of a file of this name, and what was noted."""
    notes: list[str] = []
    return b"".join(inflate([data], name, 200, note=notes.append, **options)), notes


@pytest.fixture(params=list(NAMES))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@given(
    form=st.sampled_from(list(NAMES)),
    members=st.lists(st.binary(max_size=300) | st.integers(0, 9000).map(lambda n: b"ab\n" * n), min_size=1, max_size=5),
    chunk_bytes=st.integers(1, 4000),
    piece_bytes=st.sampled_from([1, 7, 4096]),
)
@settings(max_examples=150, deadline=None)
def test_any_members_in_any_chunks_come_out_as_they_went_in(
    form: str, members: list[bytes], chunk_bytes: int, piece_bytes: int
) -> None:
    assume(not b"".join(members).startswith(tuple(MAGIC.values())))  # compressed twice is one layer more to undo
    data = b"".join(compressed(form, member) for member in members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inflating, "CHUNK_BYTES", piece_bytes if len(b"".join(members)) < 2000 else 4096)
        assert plain(form, data, chunk_bytes) == b"".join(members)


def test_zstd_frames_that_are_to_be_skipped_are_skipped() -> None:
    note = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    assert plain("zstd", note + compressed("zstd") + note + compressed("zstd") + note) == PROSE * 2


def test_a_file_of_another_name_passes_as_it_is() -> None:
    assert b"".join(inflate([b"ab", b"c"], "https://host/books.jsonl", 200)) == b"abc"


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
            found = caught.value
            assert (found.url, found.offset, "truncated" in found.detail) == (NAMES[form], length, True)


def test_every_flipped_bit_of_the_compressed_data_is_an_error(form: str) -> None:
    whole = compressed(form)
    # of gzip's header only the magic, the method and the flags mean anything; of time, level and system nothing does
    # and bzip2 checks its blocks, but not the bits that fill up the last byte
    idle = set(range(4, 10)) if form == "gzip" else {len(whole) - 1} if form == "bz2" else set()
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
    whole[{"zstd": -1, "gzip": -6, "bz2": -4, "xz": -30}[form]] ^= 1
    with pytest.raises(CorruptInput, match="damaged compressed data"):
        plain(form, bytes(whole))


@pytest.mark.parametrize("garbage", [b"\0x", b"hello", b"\x1f", b"\x1f\x8b", b'{"text": "x"}\n', b"PK\3\4"])
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
def test_garbage_after_the_end_is_an_error(form: str, garbage: bytes, chunk_bytes: int) -> None:
    with pytest.raises(CorruptInput) as caught:
        plain(form, compressed(form) + garbage, chunk_bytes)
    assert (caught.value.offset or 0) >= len(compressed(form))


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 512])
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
def test_zeros_after_a_member_are_padding_for_those_whose_own_tools_say_so(
    form: str, padding: bytes, chunk_bytes: int
) -> None:
    padded = compressed(form) + padding + compressed(form) + padding
    if form in ("gzip", "xz"):
        assert plain(form, padded, chunk_bytes) == PROSE * 2
    else:
        with pytest.raises(CorruptInput):
            plain(form, padded, chunk_bytes)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 100, 2])
def test_garbage_after_gzip_is_called_so_with_the_place_where_it_begins(chunk_bytes: int) -> None:
    with pytest.raises(CorruptInput, match="garbage after the end of the compressed data at byte"):
        plain("gzip", compressed("gzip") + b"garbage", chunk_bytes)


@pytest.mark.parametrize("url", ["a.json.gz", "a.jsonl.zst", "a.jsonl"])
@pytest.mark.parametrize("chunks", [[], [b""]])
def test_a_file_without_a_byte_is_corrupt(url: str, chunks: list[bytes]) -> None:
    with pytest.raises(CorruptInput, match="the file is empty"):
        list(inflate(chunks, url, 200))


@pytest.mark.parametrize("url", ["a.json.gz", "a.jsonl"])
def test_a_file_without_a_byte_is_taken_and_noted_where_the_recipe_says_so(url: str) -> None:
    assert read_as(url, b"", may_be_empty=True) == (b"", ["empty_file"])


# -- the name, the content, and what the recipe says


@pytest.mark.parametrize("name", [*NAMES.values(), "books-0000.jsonl", "books-0000"])
@pytest.mark.parametrize("content", [*COMPRESS, "none"])
def test_a_file_is_read_as_what_its_first_bytes_say_and_another_name_is_noted(name: str, content: str) -> None:
    data = PROSE if content == "none" else compressed(content)
    agrees = name == NAMES.get(content) or (content == "none" and name not in NAMES.values())
    assert read_as(name, data) == (PROSE, [] if agrees else ["compression_unlike_name"])


def test_text_of_any_language_under_a_compressed_name_is_text_wherever_its_head_ends(form: str) -> None:
    for start in range(4):
        text = "x" * start + '{"text": "Ґанок і 鯨 та 🐋"}' * 100
        assert read_as(NAMES[form], text.encode())[0] == text.encode()


def test_neither_text_nor_what_the_name_says_is_damage(form: str) -> None:
    with pytest.raises(CorruptInput, match=f"its name says {form}, but it begins neither as that nor as text"):
        plain(form, bytes(range(200)))


@pytest.mark.parametrize("outer", list(COMPRESS))
def test_what_a_host_compressed_once_more_is_unpacked_twice_and_noted(form: str, outer: str) -> None:
    data = compressed(outer, compressed(form))
    notes = ["compression_unlike_name"] if outer != form else []
    assert read_as(NAMES[form], data) == (PROSE, [*notes, "compressed_twice"])


def test_three_layers_are_refused() -> None:
    with pytest.raises(CorruptInput, match="compressed more than 2 times over"):
        read_as("a.gz", gzip.compress(gzip.compress(gzip.compress(PROSE))))


def test_a_bomb_in_two_layers_is_measured_against_the_file() -> None:
    data = gzip.compress(gzip.compress(bytes(200 << 20)))
    with pytest.raises(InputTooLarge, match="more than 200 times"):
        read_as("a.gz", data)


@pytest.mark.parametrize("name", ["a.jsonl", "a.gz", "a.zst"])
def test_what_the_recipe_says_of_the_compression_goes_before_name_and_content(name: str, form: str) -> None:
    assert read_as(name, compressed(form), compression=form) == (PROSE, [])
    assert read_as(name, compressed(form), compression="none") == (compressed(form), [])


def test_a_file_that_is_not_compressed_as_the_recipe_says_is_refused(form: str) -> None:
    with pytest.raises(CorruptInput, match=f"begins as text, but the recipe says `compression: {form}`"):
        read_as("a", PROSE, compression=form)
    other = next(name for name in COMPRESS if name != form)
    with pytest.raises(CorruptInput, match=f"begins as {other}, but the recipe says `compression: {form}`"):
        read_as("a", compressed(other), compression=form)


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


# magic, then a frame header without content size, whose window is 2 GiB, then an empty last block
WIDE = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x01\0\0"


def test_a_zstd_window_beyond_the_limit_is_refused_before_it_is_allocated_and_the_setting_is_named() -> None:
    with pytest.raises(InputTooLarge, match=r"zstd window beyond 134,217,728 bytes.*bad_input\.max_window_bytes"):
        plain("zstd", WIDE)


def test_a_zstd_window_that_the_recipe_allows_is_read() -> None:
    assert read_as("a.zst", WIDE, max_window_bytes=1 << 31) == (b"", [])
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    long = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = long.compress(PROSE) + long.flush()
    with pytest.raises(InputTooLarge):
        read_as("a.zst", data)
    assert read_as("a.zst", data, max_window_bytes=1 << 28) == (PROSE, [])


def test_an_xz_dictionary_beyond_the_limit_is_refused_by_the_same_setting() -> None:
    data = lzma.compress(PROSE, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}])
    with pytest.raises(InputTooLarge, match=r"xz window beyond .*bad_input\.max_window_bytes"):
        plain("xz", data)
    assert read_as("a.xz", data, max_window_bytes=1 << 28)[0] == PROSE


ALL_LINES = """
from bamba_data.sources.decompress import inflate
from bamba_data.sources.lines import read_lines
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
    magic = compressed(form)[: len(MAGIC[form])]  # type: ignore[index]
    for _ in range(300):
        noise = magic[: dice.randrange(len(magic) + 1)] + dice.randbytes(dice.randrange(1, 200))
        if not is_text(noise):
            with pytest.raises(CorruptInput):
                plain(form, noise, chunk_bytes=dice.randrange(1, 64))
