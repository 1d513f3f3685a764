"""Blocks are what the manifest says or are an error that names them; their index is never trusted and always mended."""

import random
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bamba_data.errors import BambaError, CorruptShard
from bamba_data.format.dataset import open_dataset
from loader.sources.shards import ShardBlocks, _shard_of, open_blocks
from tests.loader.real import in_memory


def opened(data: Path, cache: Path) -> dict[str, ShardBlocks]:
    return open_blocks(open_dataset(str(data)), cache)


def all_tokens(blocks: ShardBlocks) -> list[list[int]]:
    return [blocks.read(number).ids.tolist() for number in range(len(blocks.tokens))]


def test_they_are_the_documents_that_pyarrow_reads(mixed: Path, cache: Path) -> None:
    memory = in_memory(mixed, 5000)
    found = opened(mixed, cache)
    assert sorted(found) == sorted(memory)
    for name, blocks in found.items():
        wanted = memory[name]
        assert blocks.tokens.tolist() == wanted.tokens.tolist()
        assert blocks.documents.tolist() == wanted.documents.tolist()
        for number, block in enumerate(wanted.blocks):
            assert [document.tolist() for document in blocks.read(number).documents()] == block
        candidates = blocks.candidates
        places = list(zip(candidates.block.tolist(), candidates.document.tolist(), strict=True))
        assert places == sorted(wanted.heldout)
        assert candidates.tokens.tolist() == [len(wanted.blocks[b][d]) for b, d in places]


# ---- the index of a host


def index_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("index/*"))


def test_a_flipped_bit_anywhere_in_the_index_is_mended(mixed: Path, cache: Path) -> None:
    opened(mixed, cache)
    dice = random.Random(1)
    (path,) = index_files(cache)
    good = path.read_bytes()
    for place in [0, 9, 20, 40, len(good) - 1, *(dice.randrange(len(good)) for _ in range(30))]:
        data = bytearray(good)
        data[place] ^= 1 << dice.randrange(8)
        path.unlink()
        path.write_bytes(data)
        sources = opened(mixed, cache)
        assert all_tokens(sources["short"]) == [[i for d in b for i in d] for b in in_memory(mixed)["short"].blocks]
        assert path.read_bytes() == good, place


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", bytes(32), b"bamba\0a1" + bytes(40), b"\xff\xfe" * 500])
def test_what_is_no_index_is_made_anew(mixed: Path, cache: Path, content: bytes) -> None:
    opened(mixed, cache)
    (path,) = index_files(cache)
    path.unlink()
    path.write_bytes(content)
    assert sorted(opened(mixed, cache)) == ["code", "prose", "short"]
    assert path.read_bytes() != content


def test_it_leaves_no_other_files(mixed: Path, cache: Path) -> None:
    opened(mixed, cache)
    names = {path.name.split(".")[-1] for path in cache.rglob("*") if path.is_file()}
    assert not {name for name in names if "part" in name}
    assert not list(cache.rglob(".*"))


def _open_and_sum(data: str, cache: str) -> int:
    return sum(int(one.tokens.sum()) for one in opened(Path(data), Path(cache)).values())


def test_processes_that_make_it_at_once_all_have_it(mixed: Path, cache: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_open_and_sum, [(str(mixed), str(cache))] * 8)
    assert set(found) == {sum(int(one.tokens.sum()) for one in in_memory(mixed).values())}


# ---- shards on disk


def test_a_flipped_bit_in_a_shard_is_never_a_wrong_token(tiny: Path, tiny_copy: Path, cache: Path) -> None:
    wanted = {name: all_tokens(blocks) for name, blocks in opened(tiny, cache).items()}
    dataset = open_dataset(str(tiny_copy))
    dice = random.Random(2)
    refused = 0
    for number in range(120):
        row = dice.randrange(len(dataset.shards))
        path = tiny_copy / dataset.shards["path"][row]
        good = path.read_bytes()
        data = bytearray(good)
        for _ in range(1 if number % 3 else 40):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        _shard_of.cache_clear()  # footers are held parsed
        for name, blocks in open_blocks(dataset, cache).items():
            for block in range(len(blocks.tokens)):
                try:
                    assert blocks.read(block).ids.tolist() == wanted[name][block]
                except CorruptShard as error:
                    refused += 1
                    assert str(dataset.shards["path"][row]) in str(error)
        path.write_bytes(good)
    assert refused > 100


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_shard_that_was_cut_off_is_an_error_that_names_it(tiny_copy: Path, cache: Path, keep: int) -> None:
    dataset = open_dataset(str(tiny_copy))
    path = tiny_copy / dataset.shards["path"][0]
    path.write_bytes(path.read_bytes()[:keep])
    blocks = open_blocks(dataset, cache)[dataset.shards["source"][0]]
    with pytest.raises(CorruptShard, match=str(dataset.shards["path"][0])):
        blocks.read(0)


def test_a_shard_that_is_missing_is_an_error_that_names_it(tiny_copy: Path, cache: Path) -> None:
    dataset = open_dataset(str(tiny_copy))
    (tiny_copy / dataset.shards["path"][0]).unlink()
    blocks = open_blocks(dataset, cache)[dataset.shards["source"][0]]
    with pytest.raises(CorruptShard, match="missing") as caught:
        blocks.read(0)
    assert dataset.shards["path"][0] in str(caught.value)
    assert isinstance(caught.value, BambaError) and caught.value.exit_code == 5


def test_two_shards_that_changed_places_are_found(tiny_copy: Path, cache: Path) -> None:
    dataset = open_dataset(str(tiny_copy))
    one, other = (tiny_copy / dataset.shards["path"][row] for row in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    with pytest.raises(CorruptShard):
        open_blocks(dataset, cache)[dataset.shards["source"][0]].read(0)


def test_the_digest_of_a_block_is_the_manifests(tiny: Path, cache: Path) -> None:
    dataset = open_dataset(str(tiny))
    for name, blocks in open_blocks(dataset, cache).items():
        mine = dataset.blocks.filter(dataset.blocks["source"] == name)["digest"].to_list()
        assert [blocks.digest(number) for number in range(len(mine))] == mine


def test_counts_alone_are_those_of_the_tokens(tiny: Path, cache: Path) -> None:
    for blocks in opened(tiny, cache).values():
        any_blocks: Any = blocks
        for number in range(len(blocks.tokens)):
            assert np.array_equal(any_blocks.counts(number), blocks.read(number).counts)
