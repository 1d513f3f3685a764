"""A file of arrays gives back what was written for the same key, or nothing: never other numbers."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from loader.cache.array_file import file_bytes, read_arrays, write_arrays, write_parts

KEY = bytes(range(16))
DTYPES = ("<u2", "<i4", "<u8", "S64")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays_of.arrays(dtype, st.integers(0, 40)))))
def test_any_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, arrays: list[NDArray[Any]]) -> None:
    path = tmp_path_factory.mktemp("arrays") / "deep" / "file"
    write_arrays(path, KEY, arrays)
    assert path.stat().st_size == file_bytes(arrays)
    back = read_arrays(path, KEY)
    assert back is not None and len(back) == len(arrays)
    for one, other in zip(arrays, back, strict=True):
        assert other.dtype == one.dtype and np.array_equal(one, other) and not other.flags.writeable


def test_every_flipped_bit_and_every_cut_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_arrays(path, KEY, [np.arange(7, dtype="<u4"), np.arange(3, dtype="<i8")])
    good, dice = path.read_bytes(), random.Random(2)
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        assert read_arrays(path, KEY) is None, place
        path.write_bytes(good[:place])
        assert read_arrays(path, KEY) is None, place
    path.write_bytes(good + b"\0")
    assert read_arrays(path, KEY) is None


def test_another_key_or_another_dtype_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_arrays(path, KEY, [np.arange(4, dtype="<u4"), np.arange(4, dtype="<i8")] * 3)
    assert read_arrays(path, bytes(16)) is None
    assert read_arrays(path, KEY, ["<u4", "<u8"]) is None
    assert read_arrays(path, KEY, ["<u4", "<i8", "<u4", "<i8"]) is None
    assert len(read_arrays(path, KEY, ["<u4", "<i8"]) or []) == 6


def test_pieces_that_are_not_the_array_that_was_said_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 bytes came for an array of 3 uint32"):
        write_parts(tmp_path / "file", KEY, [(3, "<u4")], [[bytes(8)]])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_vouched_for_by_what_was_written_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert (written := write_arrays(path, KEY, [np.arange(40)])) is not None
    assert read_arrays(path, KEY, written=written) is not None
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # and whoever found it could not remove it
    path.write_bytes(damaged)
    written = write_arrays(path, KEY, [np.arange(40)])
    assert read_arrays(path, KEY, written=written) is None


def test_a_file_that_is_missing_to_make_an_array_is_told_and_none_is_made(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(8)
        raise FileNotFoundError("a shard")

    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="a shard"):
        write_parts(tmp_path / "folder" / "file", KEY, [(2, "<i8")], [pieces()])
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_file_that_is_there_stays_and_a_missing_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_arrays(path, KEY, [np.arange(4)])
    write_arrays(path, KEY, [np.arange(5)])
    back = read_arrays(path, KEY)
    assert back is not None and len(back[0]) == 4
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none", KEY)
