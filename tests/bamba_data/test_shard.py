"""A shard gives back what went in, the same bytes every time, and nothing that its digests do not vouch for."""

import io
import random
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptShard
from bamba_data.format.identity import IdsDigest, ids_digest
from bamba_data.format.shard import Finished, ShardReader, ShardWriter, row_group_range, schema

U2, U4 = np.dtype("<u2"), np.dtype("<u4")

lengths = st.lists(st.integers(0, 90), max_size=40)
dtypes = st.sampled_from([U2, U4])


def documents(lengths: list[int], dtype: np.dtype[Any], seed: int = 0) -> list[npt.NDArray[Any]]:
    dice = np.random.default_rng(seed)
    return [dice.integers(0, np.iinfo(dtype).max, n, dtype, endpoint=True) for n in lengths]


def write(docs: list[npt.NDArray[Any]], dtype: np.dtype[Any] = U2, block_tokens: int = 64) -> Finished:
    writer = ShardWriter(dtype, block_tokens, 1000)
    for number, ids in enumerate(docs):
        writer.add(ids, f"document-{number}", number // 7, number * 3)
    return writer.finish()


def reader(data: bytes) -> ShardReader:
    return ShardReader(io.BytesIO(data), "shard.parquet")


def read(made: Finished) -> list[npt.NDArray[Any]]:
    opened = reader(made.data)
    return [ids for n, b in enumerate(made.blocks) for ids in opened.tokens(n, b.digest).documents()]


@pytest.fixture(scope="module")
def small() -> Finished:
    """Five blocks."""
    return write(documents([n * 7 % 60 for n in range(40)], U2), block_tokens=256)


@given(lengths, dtypes, st.integers(16, 400))
def test_documents_come_back_as_they_went_in(lengths: list[int], dtype: np.dtype[Any], block_tokens: int) -> None:
    docs = documents(lengths, dtype)
    made = write(docs, dtype, block_tokens)
    found = read(made)
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in docs]
    assert all(ids.dtype == dtype for ids in found)
    assert (made.documents, made.tokens) == (len(docs), sum(lengths))
    rows = pq.read_table(io.BytesIO(made.data)).drop_columns(["tokens", "token_count"]).to_pylist()
    assert rows == [{"document_id": f"document-{n}", "file": n // 7, "row": n * 3} for n in range(len(docs))]


@given(lengths, st.integers(16, 400))
def test_a_block_ends_with_the_document_that_reaches_block_tokens(lengths: list[int], block_tokens: int) -> None:
    blocks: list[list[int]] = []
    held: list[int] = []
    for length in lengths:
        held.append(length)
        if sum(held) >= block_tokens:
            blocks.append(held)
            held = []
    blocks += [held] if held else []
    made = write(documents(lengths, U2), U2, block_tokens)
    assert [(b.documents, b.tokens) for b in made.blocks] == [(len(b), sum(b)) for b in blocks]


def test_a_shard_is_full_when_its_last_block_has_just_ended() -> None:
    writer = ShardWriter(U2, 100, 3)
    told = []
    for number in range(30):
        writer.add(np.zeros(10, U2), str(number), 0, number)
        told.append(writer.full)
        assert writer.documents == number + 1
    assert told == [False] * 29 + [True]


@given(lengths, dtypes)
@settings(max_examples=20)
def test_the_same_documents_give_the_same_bytes(lengths: list[int], dtype: np.dtype[Any]) -> None:
    first, again = (write(documents(lengths, dtype), dtype) for _ in range(2))
    assert first.data == again.data
    assert first.sha256 == sha256(first.data)
    assert first.blocks == again.blocks


@pytest.mark.parametrize(
    ("dtype", "want"), [(U2, "fac77175646d4d3929451fff4ad11ac4"), (U4, "539593a66a538a69b3894c817b8b831f")]
)
def test_block_digests_are_those_of_this_release(dtype: np.dtype[Any], want: str) -> None:
    """They stand in every manifest and every cache of a loader: a change here needs a new shard format."""
    docs = [(np.arange(n) * 7919 % 50280).astype(dtype) for n in (5, 0, 300)]
    assert [block.digest for block in write(docs, dtype).blocks] == [want]


@given(lengths, dtypes)
@settings(max_examples=30)
def test_a_block_digest_is_xxh3_of_token_bytes_and_counts(lengths: list[int], dtype: np.dtype[Any]) -> None:
    docs = documents(lengths, dtype)
    taken = iter(docs)
    for block in write(docs, dtype).blocks:
        mine = [next(taken) for _ in range(block.documents)]
        text = b"".join(struct.pack(f"<{len(d)}{'H' if dtype == U2 else 'I'}", *d.tolist()) for d in mine)
        text += struct.pack(f"<{len(mine)}I", *map(len, mine))
        assert xxhash.xxh3_128_hexdigest(text) == block.digest


def test_one_document_in_two_hundred_is_a_candidate_for_being_held_out() -> None:
    docs = documents([n % 7 for n in range(20_000)], U2)
    made = write(docs, U2)
    taken = iter(enumerate(docs))
    wanted = []
    for number, block in enumerate(made.blocks):
        for place in range(block.documents):
            index, ids = next(taken)
            hashed = xxhash.xxh3_64_intdigest(f"document-{index}".encode())
            if hashed < 2**64 // 200:
                wanted.append((number, place, len(ids), hashed))
    assert made.candidates == wanted and 60 < len(wanted) < 140


def test_an_empty_shard_has_no_blocks() -> None:
    made = write([])
    assert (made.documents, made.tokens, made.blocks, reader(made.data).blocks) == (0, 0, [], 0)


@pytest.mark.parametrize("dtype", [U2, U4])
def test_one_giant_document_is_one_block(dtype: np.dtype[Any]) -> None:
    (ids,) = documents([5_000_000], dtype)
    made = write([ids], dtype, 1 << 18)
    assert [(b.documents, b.tokens) for b in made.blocks] == [(1, 5_000_000)]
    assert np.array_equal(read(made)[0], ids)


def test_documents_without_tokens_keep_their_place() -> None:
    docs = documents([0, 0, 5, 0, 90, 0], U2)
    assert [len(ids) for ids in read(write(docs))] == [0, 0, 5, 0, 90, 0]
    assert [len(ids) for ids in read(write(documents([0, 0, 0], U4), U4))] == [0, 0, 0]


@given(lengths.filter(any), dtypes)
@settings(max_examples=30)
def test_a_block_can_be_decoded_from_its_byte_range_and_the_footer(lengths: list[int], dtype: np.dtype[Any]) -> None:
    docs = documents(lengths, dtype)
    made = write(docs, dtype)
    footer = len(made.data) - 8 - int.from_bytes(made.data[-8:-4], "little")
    taken = iter(docs)
    for number, block in enumerate(made.blocks):
        part = bytearray(len(made.data))  # zeros, but for what was fetched
        part[block.offset : block.offset + block.size_bytes] = made.data[block.offset : block.offset + block.size_bytes]
        part[footer:] = made.data[footer:]
        found = reader(bytes(part)).tokens(number, block.digest).documents()
        assert [ids.tolist() for ids in found] == [next(taken).tolist() for _ in found]


def test_blocks_lie_end_to_end_in_the_file(small: Finished) -> None:
    assert small.blocks[0].offset == 4
    meta = pq.read_metadata(io.BytesIO(small.data))
    for number, block in enumerate(small.blocks):
        assert row_group_range(meta.row_group(number)) == (block.offset, block.size_bytes)
        if number:
            before = small.blocks[number - 1]
            assert 0 <= block.offset - before.offset - before.size_bytes <= 8


def test_another_digest_is_refused(small: Finished) -> None:
    with pytest.raises(CorruptShard, match="block 1: its tokens do not have the digest"):
        reader(small.data).tokens(1, small.blocks[0].digest)


def content(data: bytes, blocks: int, digests: list[str]) -> list[Any] | None:
    """All that a reader can get out of a shard; None if it refuses."""
    try:
        opened = reader(data)
        if opened.blocks != blocks:
            return None
        found: list[Any] = []
        for number, digest in enumerate(digests):
            tokens = opened.tokens(number, digest)
            found.append((tokens.ids.tobytes(), tokens.counts.tobytes()))
            found.append(opened.table(number, ["document_id", "file", "row"]).to_pylist())
        return found
    except CorruptShard:
        return None


@pytest.mark.parametrize("tries", [3_000, pytest.param(60_000, marks=pytest.mark.long)])
def test_no_flipped_bit_changes_what_is_read(small: Finished, tries: int) -> None:
    """And it is refused as a CorruptShard; page indexes, unused statistics and the like may be any bits."""
    digests = [block.digest for block in small.blocks]
    whole = content(small.data, len(digests), digests)
    dice = random.Random(7)
    refused = 0
    for bit in dice.sample(range(8 * len(small.data)), min(tries, 8 * len(small.data))):
        data = bytearray(small.data)
        data[bit // 8] ^= 1 << bit % 8
        assert sha256(bytes(data)) != small.sha256
        found = content(bytes(data), len(digests), digests)
        assert found in (None, whole), f"bit {bit}"
        refused += found is None
    assert refused > tries / 2


def test_every_flipped_bit_of_the_tokens_is_refused(small: Finished) -> None:
    """The digests alone find it: no trust in the checksums of parquet."""
    opened = reader(small.data)
    for number, block in enumerate(small.blocks):
        chunk = opened.parquet.metadata.row_group(number).column(0)
        for byte in range(chunk.data_page_offset + 40, chunk.data_page_offset + chunk.total_compressed_size, 5):
            data = bytearray(small.data)
            data[byte] ^= 1 << byte % 8
            with pytest.raises(CorruptShard):
                reader(bytes(data)).vouched_tokens(number, block.digest)


@pytest.mark.parametrize("cut", [0, 3, 4, 100, -1, -4, -8, -9, -200])
def test_a_truncated_shard_is_refused(small: Finished, cut: int) -> None:
    with pytest.raises(CorruptShard, match=r"shard\.parquet"):
        reader(small.data[:cut])


def foreign() -> dict[str, pa.Table]:
    ids = np.arange(3, dtype=U2).tobytes()
    columns = {"tokens": [ids], "token_count": [3], "document_id": ["a"], "file": [0], "row": [0]}
    right = pa.table(columns, schema=schema(U2))
    return {
        "other columns": pa.table({"text": ["a"]}),
        "no metadata": right.replace_schema_metadata(None),
        "other format": right.replace_schema_metadata({"bamba_format": "bamba-shard/9", "token_dtype": "<u2"}),
        "big-endian": right.replace_schema_metadata({"bamba_format": "bamba-shard/1", "token_dtype": ">u2"}),
        "dtype is no text": right.replace_schema_metadata({"bamba_format": "bamba-shard/1", "token_dtype": b"\xff"}),
        "one column more": right.append_column("more", pa.array([1])),
        "counts of another type": right.set_column(1, "token_count", pa.array([3], pa.int64())),
    }


@pytest.mark.parametrize("kind", foreign())
def test_foreign_parquet_is_refused(kind: str) -> None:
    out = io.BytesIO()
    pq.write_table(foreign()[kind], out)
    with pytest.raises(CorruptShard, match="not those of a shard"):
        reader(out.getvalue())


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_token_count_that_lies_is_refused(count: int) -> None:
    out = io.BytesIO()
    ids = np.arange(3, dtype=U2).tobytes()
    columns = {"tokens": [ids], "token_count": [count], "document_id": ["a"], "file": [0], "row": [0]}
    pq.write_table(pa.table(columns, schema=schema(U2)), out)
    with pytest.raises(CorruptShard, match="token_count is not the length"):
        reader(out.getvalue()).tokens(0)


@given(st.lists(st.text(max_size=9), max_size=12), st.data())
def test_ids_have_one_digest_encoded_or_not_and_in_any_number_of_pieces(ids: list[str], data: st.DataObject) -> None:
    cut, digest = data.draw(st.integers(0, len(ids))), IdsDigest()
    digest.update(ids[:cut])
    digest.update_encoded(name.encode() for name in ids[cut:])
    apart = b"".join(len(name.encode()).to_bytes(4, "little") + name.encode() for name in ids)
    assert digest.digest() == ids_digest(ids) == xxhash.xxh3_128_digest(apart)
