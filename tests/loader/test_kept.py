"""Orders of large epochs are kept as files: the same as computed, whatever lies in the folder."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loader.order.epoch_cache import WORTH_BLOCKS, keep_in
from loader.order.epochs import Epoch, RemovedTokens, Stream

BLOCKS = WORTH_BLOCKS + 3


def stream(folder: Path | None, key: int = 7, removed: tuple[RemovedTokens, ...] = ()) -> Stream:
    lengths = np.arange(BLOCKS) % 1000 + 20
    if folder is None:
        return Stream(lengths, 64, 1000, key, removed)
    return Stream(lengths, 64, 1000, key, removed, keep_in(folder, "one", key, removed))


def equal(one: Epoch, other: Epoch) -> bool:
    return bool(np.array_equal(one.order, other.order) and np.array_equal(one.ends, other.ends))


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_what_is_computed(tmp_path: Path) -> None:
    for epoch in range(3):
        for _ in range(2):  # written, and read by a stream that has computed nothing
            assert equal(stream(tmp_path).epoch(epoch), stream(None).epoch(epoch))
    assert len(kept(tmp_path)) == 3


def test_it_is_not_computed_a_second_time(tmp_path: Path) -> None:
    stream(tmp_path).epoch(0)
    keep: Callable[[int, Callable[[], Epoch]], Epoch] = keep_in(tmp_path, "one", 7, ())

    def never() -> Epoch:
        raise AssertionError("it was computed")

    assert equal(keep(0, never), stream(None).epoch(0))
    with pytest.raises(AssertionError, match="it was computed"):
        keep(1, never)


def test_a_flipped_bit_anywhere_is_found_and_mended(tmp_path: Path) -> None:
    wanted = stream(tmp_path).epoch(0)
    (path,) = kept(tmp_path)
    good, dice = path.read_bytes(), random.Random(4)
    places = [0, 15, 16, len(good) - 1, *(dice.randrange(len(good)) for _ in range(20))]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << dice.randrange(8)
        path.unlink()
        path.write_bytes(damaged)
        assert equal(stream(tmp_path).epoch(0), wanted)
        assert path.read_bytes() == good


@pytest.mark.parametrize("length", [0, 3, 4, 16, 27, 1000])
def test_a_file_that_was_cut_off_is_made_anew(tmp_path: Path, length: int) -> None:
    wanted = stream(tmp_path).epoch(0)
    (path,) = kept(tmp_path)
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good[:length])
    assert equal(stream(tmp_path).epoch(0), wanted)
    assert path.read_bytes() == good


def test_another_key_or_a_removed_document_is_another_file(tmp_path: Path) -> None:
    gone = (RemovedTokens(1, 5, 20),)
    for made in (stream(tmp_path), stream(tmp_path, key=8), stream(tmp_path, removed=gone)):
        for epoch in (0, 1):
            made.epoch(epoch)
    # What is removed from epoch 1 on leaves epoch 0 as it is.
    assert len(kept(tmp_path)) == 5
    assert equal(stream(tmp_path, removed=gone).epoch(1), stream(None, removed=gone).epoch(1))
    assert equal(stream(tmp_path, removed=gone).epoch(0), stream(None).epoch(0))


def test_a_folder_that_cannot_be_written_costs_time_and_no_order(tmp_path: Path) -> None:
    (tmp_path / "epochs").write_text("a file where the folder should be")
    for _ in range(2):
        assert equal(stream(tmp_path).epoch(0), stream(None).epoch(0))


def test_small_epochs_are_not_kept(tmp_path: Path) -> None:
    small = Stream(np.full(50, 30), 16, 10, 7, (), keep_in(tmp_path, "one", 7, ()))
    small.epoch(0)
    assert kept(tmp_path) == []
