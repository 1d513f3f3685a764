"""Pieces of a checkpoint go to the disk and come back by several threads, in blocks, with the bits they had."""

import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest
import torch
import xxhash
from torch import Tensor

from bamba_data.errors import CorruptCheckpoint
from bamba_data.storage.store import LocalStore
from trainer.checkpoint import direct, pieces
from trainer.checkpoint.pieces import PieceLocation, fill, in_threads, read_piece, write_pieces

TENSORS = [
    torch.randn(37, 11),
    torch.randn(3, 5, 7).bfloat16(),
    torch.tensor(3.5, dtype=torch.float64),
    torch.empty(0, 4),
    torch.randint(0, 99, (1000,)),
    torch.randn(8, 6).t(),  # not as it would lie in a file
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 100)


def saved(folder: Path, tensors: list[Tensor]) -> tuple[LocalStore, list[PieceLocation]]:
    store = LocalStore(folder)
    with store.writer("some/file.bin") as file:
        return store, write_pieces(file, tensors, "file.bin")


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_a_file_holds_the_bytes_of_its_tensors_one_after_the_other(tmp_path: Path) -> None:
    store, places = saved(tmp_path, TENSORS)
    assert store.read("some/file.bin") == b"".join(map(raw, TENSORS))
    for tensor, place in zip(TENSORS, places, strict=True):
        assert place.digest == xxhash.xxh3_128_hexdigest(raw(tensor))
        assert raw(read_piece(store, "some", place)) == raw(tensor)


@pytest.mark.parametrize("refused", [False, True], ids=["past the cache", "where that is refused"])
def test_a_large_file_is_written_past_the_cache_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Pieces that begin and end anywhere in blocks; the file ends within a page, or with one."""
    monkeypatch.setattr(direct, "BLOCK_BYTES", 2 * mmap.PAGESIZE)
    if refused:
        monkeypatch.setattr(direct, "DIRECT", 0)
    for last in (3, 4096 - sum(tensor.nbytes for tensor in TENSORS) % 4096):
        tensors = [*TENSORS, torch.randn(70_001), *TENSORS, torch.zeros(last, dtype=torch.uint8), torch.randn(3, 5)]
        tensors.append(torch.empty(0))
        store, places = saved(tmp_path, tensors)
        assert store.read("some/file.bin") == b"".join(map(raw, tensors))
        assert all(raw(read_piece(store, "some", one)) == raw(it) for it, one in zip(tensors, places, strict=True))


def test_a_write_past_the_cache_that_the_disk_refuses_goes_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where pages are larger, or half a block was taken."""
    write, refusals = os.pwrite, []

    def first_refused(descriptor: int, data: memoryview, start: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & direct.DIRECT and len(refusals) < 2:
            refusals.append(start)
            raise OSError(errno.EINVAL, "no")
        return write(descriptor, data[: mmap.PAGESIZE // 2], start)

    monkeypatch.setattr(direct, "BLOCK_BYTES", 2 * mmap.PAGESIZE)
    monkeypatch.setattr(os, "pwrite", first_refused)
    tensors = [torch.randn(70_001)]
    store, _ = saved(tmp_path, tensors)
    assert store.read("some/file.bin") == raw(tensors[0])
    assert refusals or not direct.DIRECT


@pytest.mark.parametrize(("first", "last"), [(0, 37), (0, 5), (10, 30), (36, 37), (12, 12)])
def test_rows_of_a_piece_come_into_the_memory_of_a_tensor_and_nothing_beside_it(
    tmp_path: Path, first: int, last: int
) -> None:
    rows = TENSORS[0]
    store, places = saved(tmp_path, TENSORS)
    around = torch.full((40, 11), 7.0)
    fill(store, "some", places[0], around[2 : 2 + last - first], first * 11 * 4)
    assert torch.equal(around[2 : 2 + last - first], rows[first:last])
    assert (around[:2] == 7).all() and (around[2 + last - first :] == 7).all()


@pytest.mark.parametrize("at", [0, 150, 37 * 44 - 1])
def test_a_flipped_bit_is_found_also_where_no_wanted_row_lies(tmp_path: Path, at: int) -> None:
    store, places = saved(tmp_path, TENSORS)
    data = bytearray(store.read("some/file.bin"))
    data[at] ^= 1
    store.put("some/file.bin", bytes(data))
    for wanted in (None, torch.empty(1, 11)):
        with pytest.raises(CorruptCheckpoint, match=r"bytes 0 to 1,628 are not what was saved"):
            fill(store, "some", places[0], wanted, 20 * 44)
    fill(store, "some", places[1])


def test_a_file_that_ends_early_or_is_gone_is_damaged(tmp_path: Path) -> None:
    store, places = saved(tmp_path, TENSORS)
    store.put("some/file.bin", store.read("some/file.bin")[:1600])
    with pytest.raises(CorruptCheckpoint, match="are not what was saved"):
        read_piece(store, "some", places[0])
    store.delete("some/file.bin")
    with pytest.raises(CorruptCheckpoint, match=r"file\.bin is missing"):
        read_piece(store, "some", places[0])


def test_of_several_errors_the_first_in_order_is_raised() -> None:
    def fail(number: int) -> None:
        raise CorruptCheckpoint("here", f"number {number}")

    work = [lambda: None, lambda: fail(1), lambda: fail(2)]
    with pytest.raises(CorruptCheckpoint, match="number 1"):
        in_threads(work, [1, 2, 300])
