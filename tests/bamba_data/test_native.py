"""Compiled code gives what numpy gives, and refuses what does not fit."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data import native
from bamba_data.errors import CorruptShard
from bamba_data.format.block_reading import BlockPlace, ShardFooter, block_tokens
from bamba_data.format.shard import ShardReader, ShardWriter
from bamba_data.storage.store import open_store

compiled = pytest.mark.skipif(native.CODE is None, reason="there was no C compiler when this was installed")
DTYPES = st.sampled_from([np.dtype("<u2"), np.dtype("<u4")])


def page_of(documents: list[list[int]], dtype: np.dtype[np.uint16]) -> bytes:
    """In parquet's encoding PLAIN."""
    raw = [np.array(ids, dtype).tobytes() for ids in documents]
    return b"".join(struct.pack("<I", len(one)) + one for one in raw)


@compiled
@given(st.lists(st.lists(st.integers(0, 65535), max_size=9), max_size=9), DTYPES)
def test_a_page_gives_its_documents(documents: list[list[int]], dtype: np.dtype[np.uint16]) -> None:
    page = np.frombuffer(page_of(documents, dtype), np.uint8).copy()
    found = native.plain_page(page, len(documents), sum(map(len, documents)), dtype)
    assert found is not None
    assert found[0].tolist() == [one for ids in documents for one in ids] and found[1].tolist() == list(
        map(len, documents)
    )


@compiled
@given(st.lists(st.lists(st.integers(0, 65535), max_size=5), min_size=1, max_size=5), DTYPES, st.data())
def test_a_damaged_page_is_refused_or_is_of_as_many_tokens(
    documents: list[list[int]], dtype: np.dtype[np.uint16], data: st.DataObject
) -> None:
    tokens = sum(map(len, documents))
    raw = bytearray(page_of(documents, dtype))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    for page in (raw, cut):
        found = native.plain_page(np.frombuffer(page, np.uint8).copy(), len(documents), tokens, dtype)
        assert found is None or (len(found[0]) == tokens == found[1].sum())


@given(st.lists(st.integers(0, 5), max_size=9), DTYPES, st.integers(0, 3))
def test_ranges_are_laid_out_as_slices_are(counts: list[int], dtype: np.dtype[np.uint16], n: int) -> None:
    ids = np.arange(sum(counts), dtype=dtype)
    ends = np.cumsum(np.array(counts, np.int64))
    order = np.random.default_rng(n).permutation(len(counts))
    before, after = np.full(n, 60_000, dtype), np.full(n // 2, 60_001, dtype)
    begins = ends - np.array(counts, np.int64)
    found = native.lay_out(ids, begins[order], ends[order], before, after)
    wanted = [part for one in order for part in (before, ids[begins[one] : ends[one]], after)]
    assert found.dtype == dtype and found.tolist() == np.concatenate([ids[:0], *wanted]).tolist()


@pytest.mark.parametrize("is_compiled", [pytest.param(True, marks=compiled), False])
@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (0, 6), (4, 3)])
def test_ranges_that_are_not_there_are_refused(
    begin: int, end: int, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_compiled:
        monkeypatch.setattr(native, "CODE", None)
    ids = np.arange(5, dtype="<u2")
    with pytest.raises(IndexError, match="not there"):
        native.lay_out(ids, np.array([0, begin]), np.array([5, end]), ids[:0], ids[:0])


@compiled
def test_a_range_whose_length_is_no_number_is_refused() -> None:
    """Its end lies so far before its begin that their difference overflows."""
    ids, far = np.arange(8, dtype="<u2"), 2**62
    with pytest.raises(IndexError, match="not there"):
        native.lay_out(ids, np.array([5, 0]), np.array([-far, far]), ids, ids[:0])


def test_more_tokens_than_any_memory_are_a_damaged_block(tmp_path: Path) -> None:
    footer, place, _ = shard(tmp_path)
    with pytest.raises(CorruptShard):
        block_tokens(open_store(str(tmp_path)), footer, place._replace(tokens=1 << 50), np.dtype("<u2"))


def shard(folder: Path, dtype: str = "<u2") -> tuple[ShardFooter, BlockPlace, ShardReader]:
    """A shard of one block in a folder."""
    writer = ShardWriter(np.dtype(dtype), 1000, 1)
    dice = np.random.default_rng(1)
    for number in range(40):
        writer.add(dice.integers(0, 50_000, int(dice.integers(0, 60))).astype(np.uint32), f"d{number}", 0, number)
    made = writer.finish()
    (folder / "a.parquet").write_bytes(made.data)
    reader = ShardReader(str(folder / "a.parquet"), "a.parquet")
    block = made.blocks[0]
    place = BlockPlace(0, block.offset, block.size_bytes, block.documents, block.tokens, block.digest)
    return ShardFooter("a.parquet", reader.parquet.metadata), place, reader


@compiled
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_a_block_is_read_without_pyarrow(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    footer, place, reader = shard(tmp_path, dtype)
    wanted = reader.tokens(0)
    monkeypatch.setattr(ShardReader, "__init__", None)  # nothing is left to pyarrow
    found = block_tokens(open_store(str(tmp_path)), footer, place, np.dtype(dtype))
    assert found.ids.dtype == dtype and found.ids.tolist() == wanted.ids.tolist()
    assert found.counts.tolist() == wanted.counts.tolist()


def test_a_flipped_bit_anywhere_in_a_block_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    footer, place, reader = shard(tmp_path)
    wanted = reader.tokens(0)
    path = tmp_path / "a.parquet"
    whole, store, refused = path.read_bytes(), open_store(str(tmp_path)), 0
    for at in range(place.offset, place.offset + place.size_bytes, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            found = block_tokens(store, footer, place, np.dtype("<u2"))
        except CorruptShard:
            refused += 1
        else:
            assert found.ids.tolist() == wanted.ids.tolist() and found.counts.tolist() == wanted.counts.tolist()
    assert refused > 50


def test_a_block_of_another_digest_is_refused(tmp_path: Path) -> None:
    footer, place, _ = shard(tmp_path)
    other = place._replace(digest="0" * 32)
    with pytest.raises(CorruptShard, match="do not have the digest"):
        block_tokens(open_store(str(tmp_path)), footer, other, np.dtype("<u2"))
