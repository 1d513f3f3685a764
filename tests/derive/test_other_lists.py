"""Lists of duplicates that other tools write are read as they are, and what is not certain to be one is refused."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from bamba_data.derive.dropping import drop
from bamba_data.derive.other_lists import read_any_list
from bamba_data.errors import UserError
from tests.derive.content import listed, stored, tokens_of, without

WHOLE = {"id": "doc-3", "attributes": {"dup": [[0, 700, 1]]}}


def test_each_form_names_the_documents_that_leave(tiny_copy: Path, tmp_path: Path) -> None:
    """A folder of several files, an id as a number, a document that is not marked; each drops the same two."""
    before = stored(tiny_copy)
    excluded = tmp_path / "excluded"
    excluded.mkdir()
    for number, name in enumerate(["doc-3", "doc-101"]):
        line = json.dumps({"text": "a text", "id": name, "metadata": {"file_path": "/in/0.json.gz"}})
        (excluded / f"0000{number}.jsonl.gz").write_bytes(gzip.compress(line.encode() + b"\n"))
    kept = {"id": "doc-4", "attributes": {"dup": []}}
    other = {"id": "doc-101", "attributes": {"dup": [[0, 9, 1]], "score": [[0, 9, 0.5]]}}
    attributes = listed(
        tmp_path / "a.jsonl", "\n".join(map(json.dumps, [WHOLE, kept, other, {**kept, "attributes": {}}]))
    )
    removed = tmp_path / "part.0.parquet"
    pl.DataFrame({"id": ["doc-101", "doc-3"]}).write_parquet(removed)
    identities = set()
    for path, form, attribute in [(excluded, "datatrove", None), (attributes, "dolma", "dup"), (removed, "nemo", None)]:
        made = drop(str(tiny_copy), read_any_list(path, form, attribute), "1")
        assert made is not None and made.documents == 2
        identities.add(made.manifest.identity)
    assert len(identities) == 1
    assert tokens_of(without(before, {"doc-3", "doc-101"})).total() == before.total() - 2


def test_a_list_can_be_of_one_source(tmp_path: Path) -> None:
    attributes = listed(tmp_path / "a.jsonl", json.dumps(WHOLE))
    entries = read_any_list(attributes, "dolma", "dup", "lines").entries
    assert entries.to_dicts() == [{"source": "lines", "document_id": "doc-3"}]


@pytest.mark.parametrize(
    ("form", "attribute", "content", "said"),
    [
        ("dolma", None, WHOLE, "needs --list-attribute"),
        ("dolma", "dups", WHOLE, r"no document has the attribute 'dups'; there are \['dup'\]"),
        ("dolma", "dup", {"id": "doc-3", "attributes": {"dup": [[0, 7, 1], [8, 9, 1]]}}, "line 1: dup of 'doc-3' is"),
        ("dolma", "dup", {"id": "doc-3", "attributes": {"dup": [[8, 9, 1]]}}, "a whole document is marked by one span"),
        ("dolma", "dup", {"id": "doc-3", "attributes": {"dup": [[0, 9, 0.8]]}}, "scores and parts"),
        ("dolma", "dup", {"id": "doc-3", "attributes": {"dup": True}}, "a whole document is marked by one span"),
        ("dolma", "dup", {"text": "a", "id": "doc-3"}, "is no line of attributes"),
        ("datatrove", None, WHOLE, "is no document that datatrove left out"),
        ("datatrove", None, {"text": "a"}, "has no id"),
        ("datatrove", "dup", WHOLE, "--list-attribute is for --list-form dolma"),
        ("nemo", None, WHOLE, "is named .parquet"),
        ("own", None, WHOLE, "Say --list-form"),
        ("slimpajama", None, WHOLE, "it can be own, datatrove, dolma, nemo"),
    ],
)
def test_what_is_not_certain_to_be_a_list_is_refused(
    tmp_path: Path, form: str, attribute: str | None, content: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read_any_list(listed(tmp_path / "a.jsonl", json.dumps(content)), form, attribute)


def test_numbers_that_only_a_run_can_resolve_are_refused(tmp_path: Path) -> None:
    (tmp_path / "000000.remove").write_bytes(b"\3\0\0\0")
    with pytest.raises(UserError, match="exclusion_writer=JsonlWriter"):
        read_any_list(tmp_path, "datatrove")
    for frame in ({"_curator_dedup_id": [3]}, {"id": [3]}, {"_curator_dedup_id": ["3"]}):
        pl.DataFrame(frame).write_parquet(tmp_path / "a.parquet")
        with pytest.raises(UserError, match="assign_id=False and id_field"):
            read_any_list(tmp_path / "a.parquet", "nemo")
    pl.DataFrame({"id": ["doc-3"], "keep": [True]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has the columns id, keep"):
        read_any_list(tmp_path / "a.parquet", "nemo")


def test_a_folder_with_something_else_in_it_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no file"):
        read_any_list(tmp_path, "nemo")
    listed(tmp_path / "stats.txt", "20 documents")
    with pytest.raises(UserError, match=r"is named \.parquet"):
        read_any_list(tmp_path, "nemo")
