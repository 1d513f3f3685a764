"""A path that passes is safe to join to any root on any system; two that pass are two everywhere."""

from pathlib import Path, PurePosixPath, PureWindowsPath

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bamba_data.errors import UnsafePath
from bamba_data.format import dataset
from bamba_data.storage.paths import checked, distinct, input_name, stored_name

UNSAFE = [
    *("", "/", "/etc/passwd", "//host/share", ".", "..", "../x", "a/..", "a/../../x", "a/./b", "a//b", "a/"),
    *("C:", "C:x", "c:\\x", "C:/x", "\\\\host\\share", "a\\..\\b", "a:b", "a/b:stream"),
    *("http://h/x", "s3://b/x", "file:///x", "x\0y", "x\ny", "x\x7f", "a*", "a?", 'a"b', "a<b", "a|b"),
    *("con", "NUL", "aux.txt", "a/com1", "a/LPT9.json", "prn/x", "a.", "a ", "a./b", " /b"),
    *("cafe\u0301", "a\ud800", "\udcff", "x" * 1025, "\u0442" * 513),
]


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
def test_a_path_that_leads_elsewhere_on_some_system_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        checked(path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a",
            "a/b",
            "dataset=wiki/000.parquet",
            "_bamba/units/x.json",
            ".hidden",
            "a..b",
            "...a",
            "~a",
            "a b",
            "con1",
        ),
        *("console.txt", "caf\u00e9", "\u0442\u0440\u0438", "a@b", "a+b", "a%20b", "[x]", "x" * 1024, "com10/x"),
    ],
)
def test_an_ordinary_path_is_itself(path: str) -> None:
    assert checked(path) == path


@example("a/b")
@example("a b/.c")
@given(st.text("ab./\\: C\0~*con\u0301", max_size=12))
def test_what_passes_stays_below_any_root_under_posix_and_windows_rules(path: str) -> None:
    try:
        checked(path)
    except UnsafePath:
        return
    for kind, root in ((PurePosixPath, "/data/set"), (PureWindowsPath, "D:\\data\\set")):
        joined = kind(root) / path
        assert kind(root) in joined.parents
        assert joined.relative_to(kind(root)).as_posix() == path
        assert ".." not in joined.parts
    assert Path(path).as_posix() == path


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "b", "a"], "stands twice"),
        (["a/x", "A/x"], "looks like 'a/x'"),
        (["stra\u00dfe", "STRASSE"], "looks like"),
    ],
)
def test_two_paths_that_some_system_takes_for_one_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(UnsafePath, match=message):
        distinct(paths)


def test_one_and_the_same_string_twice_is_twice() -> None:
    path = "".join(["a", "/b"])
    with pytest.raises(UnsafePath, match="stands twice"):
        distinct([path, path])


def test_different_paths_pass() -> None:
    distinct(["a", "b", "a/b", "ab"])


INPUTS = ["a/b.jsonl", "A/B.jsonl", "a:b", "what?", "cafe\u0301/x", "caf\u00e9/x", "con/nul.jsonl", "a ", "x" * 255]


@pytest.mark.parametrize("path", INPUTS, ids=ascii)
def test_what_a_store_can_hold_is_a_name_of_an_input(path: str) -> None:
    assert input_name(path) == path


@pytest.mark.parametrize("path", ["", "/x", "../x", "a/../x", "a//b", "a\\b", "a\nb", "a\0", "x" * 1025, "\ud800"])
def test_an_input_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        input_name(path)


def test_what_is_portable_is_stored_under_its_own_name() -> None:
    assert [stored_name(path) for path in ("a/B c.jsonl", "50%#1", "x" * 250)] == ["a/B c.jsonl", "50%#1", "x" * 250]


@example("con/a:b")
@example("a ./. .x")
@example("\u00e9" * 500)
@example("a/" * 500 + "?")
@given(st.text("ab?:.* \u0301\u00e9con/", min_size=1, max_size=40))
def test_every_input_has_a_safe_name_of_its_own_in_a_mirror(path: str) -> None:
    try:
        input_name(path)
    except UnsafePath:
        return
    stored = stored_name(path)
    assert checked(stored) == stored
    assert max(len(part.encode()) for part in stored.split("/")) <= 250
    assert stored_name(f"{path}?") != stored


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["dataset=a/ab-0-cd.parquet", "dataset=a/ab-0-cd.parquet"], "stands twice"),
        (["dataset=a/ab-0-cd.parquet", "dataset=A/ab-0-cd.parquet"], "looks like"),
        (["dataset=a/ab-0-cd.parquet\n"], "character"),
        (["dataset=a/ab-0-cd.parquet", "../ab-0-cd.parquet"], r"part '\.\.'"),
        (["dataset=a/x/../../../ab-0-cd.parquet"], r"part '\.\.'"),
        (["dataset=a/con.parquet"], "not portable"),
    ],
)
def test_a_table_with_a_path_that_is_unsafe_beside_plain_ones_is_refused(paths: list[str], said: str) -> None:
    with pytest.raises(UnsafePath, match=said):
        dataset._safe(pl.DataFrame({"path": paths}))


def test_a_table_of_plain_paths_is_taken_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(dataset, "checked", None)
    assert len(dataset.open_dataset(tiny).shards)
