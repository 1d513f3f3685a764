"""A subset holds what was asked for, and nothing else; a condition that is not understood is refused before reading."""

from pathlib import Path

import pytest

from bamba_data.derive.subsetting import subset
from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from tests.derive.content import Contents, dropped, objects, read, stored, tokens_of


def kept(contents: Contents, condition: object) -> Contents:
    return type(contents)({document: n for document, n in contents.items() if condition(*document)})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ("tokens >= 170", lambda source, name, ids: len(ids) >= 170),
        ("source = 'lines' OR tokens < 180", lambda source, name, ids: source == "lines" or len(ids) < 180),
        ("document_id LIKE 'doc-1%'", lambda source, name, ids: name.startswith("doc-1")),
        ("file <> '1.json.gz'", lambda source, name, ids: source == "rows" or not 14 <= int(name[4:]) < 28),
    ],
)
def test_the_documents_for_which_it_is_true_stay(
    tiny_copy: Path, tmp_path: Path, where: str, condition: object
) -> None:
    before, shards = stored(tiny_copy), objects(tiny_copy)
    wanted = kept(before, condition)
    assert 0 < wanted.total() < before.total()
    made = subset(str(tiny_copy), [], where)
    assert made is not None and made.documents == before.total() - wanted.total()
    assert read(tiny_copy, tmp_path / "cache") == tokens_of(wanted)
    assert objects(tiny_copy) == shards
    assert verify(str(tiny_copy), full=True).faults == []


def test_sources_stay_whole_and_what_was_dropped_before_stays_dropped(tiny_copy: Path, tmp_path: Path) -> None:
    before = stored(tiny_copy)
    dropped(tiny_copy, {"doc-3", "doc-104"})
    made = subset(str(tiny_copy), ["rows"], "row <> 2")
    wanted = kept(before, lambda source, name, ids: source == "rows" and name not in ("doc-102", "doc-104"))
    assert made is not None and made.version.number == 3
    assert read(tiny_copy, tmp_path / "cache") == tokens_of(wanted)
    manifest = open_dataset(tiny_copy).manifest
    assert [source.name for source in manifest.sources] == ["rows"]
    assert manifest.totals.kept == wanted.total()
    assert verify(str(tiny_copy), full=True).faults == []


def test_a_subset_that_is_everything_is_no_version(tiny_copy: Path) -> None:
    assert subset(str(tiny_copy), ["lines", "rows"], "tokens >= 0") is None
    assert open_dataset(tiny_copy).version.number == 1


@pytest.mark.parametrize(
    ("sources", "where", "said"),
    [
        ([], None, "say what stays"),
        (["lines", "line"], None, "no source line; the dataset has lines, rows"),
        ([], "token > 3", "no column token; documents have"),
        ([], "tokens", "is no condition"),
        ([], "TRUE", "is no condition"),
        ([], "tokens >", "it is SQL over"),
        ([], "tokens > 'a'", "it is SQL over|is no condition"),
        ([], "tokens > AVG(tokens)", "Agg is not a matter of one document by itself"),
        ([], "tokens > 3 AND COUNT(*) > 1", "not a matter of one document"),
        ([], "ROW_NUMBER() OVER (ORDER BY tokens) < 3", "not a matter of one document"),
        ([], "tokens IN (SELECT 3)", "--where 'tokens IN"),
        ([], "NOW() > TIMESTAMP '2020-01-01' AND tokens > 1", "such as the time of day"),
        ([], "file.name = 'x'", "write the name in quotes"),
        ([], "(" * 300 + "tokens" + ")" * 300 + " > 1", "200 parts"),
        ([], "tokens > 1" + " OR tokens > 1" * 900, "parts"),
        ([], "tokens" + " <> TRUE" * 400, "parts"),
        ([], "tokens" + " IS NULL" * 400, "parts"),
        ([], "tokens > 1" + " XOR TRUE" * 400, "parts"),
        ([], "tokens > 100000000", "no document would be left"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny_copy: Path, sources: list[str], where: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        subset(str(tiny_copy), sources, where)
    assert open_dataset(tiny_copy).version.number == 1
