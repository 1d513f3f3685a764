"""A file in a cache appears whole, stays if it is there, and has no name before."""

from pathlib import Path

from loader.cache.atomic_write import write_whole


def test_a_file_is_written_whole_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", [b"one ", b"two"])
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a", [b"first"])
    assert not write_whole(tmp_path / "a", [b"second"])
    assert (tmp_path / "a").read_bytes() == b"first"
