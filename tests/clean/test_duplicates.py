"""Of documents with the same tokens all but the first are listed, whatever their source; nothing else is."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamba_data.clean.duplicates import Duplicates, duplicates_job, match, scan, write_list
from bamba_data.clean.token_records import RECORD, later_ones, load, save
from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.errors import CorruptManifest, Unfinished, UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.cli import app, run
from tests.clean.planting import dataset_of_texts
from tests.corpora import texts
from tests.derive.content import dropped

Stands = list[tuple[str, str, int]]
SMALL = {"group_documents": 1, "range_bytes": 64}  # a group a shard, a range for two documents


def planted(folder: Path, certificate: Certificate, sources: dict[str, list[list[int]]]) -> Path:
    """A dataset of these texts, by number: a list a file, a source of lists."""
    return dataset_of_texts(
        folder,
        certificate,
        {name: [[texts()[n][:400] for n in numbers] for numbers in files] for name, files in sources.items()},
    )


def found(url: Path, folder: Path, sources: Sequence[str] = ()) -> tuple[Duplicates, Stands]:
    """What the job lists, run in this process in the least convenient order."""
    job = duplicates_job(open_dataset(url), sources, str(folder / "work"), **SMALL)
    for group in reversed(range(len(job.groups))):
        scan(job, group)
    for number in reversed(range(job.ranges)):
        match(job, number)
    out = folder / "list.parquet"
    out.unlink(missing_ok=True)
    counts = write_list(job, out)
    assert not list((folder / "work").rglob("*.parquet"))
    return counts, sorted(read_list(out).entries.rows()) if out.exists() else []


def expected(sources: dict[str, list[list[int]]], order: Sequence[str] = ()) -> Stands:
    """By the rule, in words of Python; a dataset has its sources by their names."""
    seen: set[int] = set()
    later = []
    for name in order or sorted(sources):
        for number, numbers in enumerate(sources[name]):
            for row, text in enumerate(numbers):
                if text in seen:
                    later.append((name, f"{number}.jsonl", row))
                seen.add(text)
    return sorted(later)


PLANTED = {"web": [[0, 1, 2, 1], [3, 0]], "books": [[4, 2, 5], [5, 5, 6]]}


def test_the_first_by_source_file_and_row_stays(tmp_path: Path, certificate: Certificate) -> None:
    url = planted(tmp_path, certificate, PLANTED)
    counts, listed = found(url, tmp_path)
    assert listed == expected(PLANTED)
    assert listed == [
        ("books", "1.jsonl", 0),
        ("books", "1.jsonl", 1),
        ("web", "0.jsonl", 2),
        ("web", "0.jsonl", 3),
        ("web", "1.jsonl", 1),
    ]
    assert counts.by_source == {"books": 2, "web": 3}


def test_the_source_that_is_named_first_keeps_its_documents(tmp_path: Path, certificate: Certificate) -> None:
    url = planted(tmp_path, certificate, PLANTED)
    _, listed = found(url, tmp_path, ["web", "books"])
    assert listed == expected(PLANTED, ["web", "books"])
    assert ("books", "0.jsonl", 1) in listed
    _, listed = found(url, tmp_path, ["books"])
    assert listed == expected({"books": PLANTED["books"]})
    for wrong, said in ((["boks"], "boks"), (["web", "web"], "twice")):
        with pytest.raises(UserError, match=said):
            found(url, tmp_path, wrong)


def test_the_list_drops_them_and_then_there_are_none(tmp_path: Path, certificate: Certificate) -> None:
    url = planted(tmp_path, certificate, PLANTED)
    counts, listed = found(url, tmp_path)
    made = drop(str(url), read_list(tmp_path / "list.parquet"))
    assert made is not None and made.documents == counts.documents == len(listed)
    assert found(url, tmp_path) == (Duplicates({"web": 0, "books": 0}), [])
    assert not (tmp_path / "list.parquet").exists()


def test_a_document_that_has_left_is_nobodys_first(tmp_path: Path, certificate: Certificate) -> None:
    url = planted(tmp_path, certificate, {"web": [[0, 1, 0, 0]]})
    dropped(url, {"web-0-0"})
    assert found(url, tmp_path)[1] == [("web", "0.jsonl", 3)]


@pytest.mark.costly
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["web", "books", "code"]),
        st.lists(st.lists(st.integers(0, 30), min_size=1), min_size=1, max_size=3),
        min_size=1,
    )
)
def test_whatever_is_planted_is_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, certificate: Certificate, sources: dict[str, list[list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("planted")
    assert found(planted(folder, certificate, sources), folder)[1] == expected(sources)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 5)), st.integers(1, 9))
def test_ranges_hold_all_records_and_every_group_in_one(rows: list[tuple[int, ...]], ranges: int) -> None:
    """The groups that are found in ranges are those that are found at once."""
    import tempfile

    records = np.array([(high << 62 | low, low, *stand) for high, low, *stand in rows], RECORD)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        save(records, ranges, store, "records")
        parts = [load(number, ranges, store, "records") for number in range(ranges)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(records.tolist())
    apart = [row for part in parts for row in later_ones(part).tolist()]
    assert sorted(apart) == sorted(later_ones(records).tolist())
    assert len(apart) == len(rows) - len({row[:2] for row in records.tolist()})


def test_a_file_of_records_that_is_cut_off_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    save(np.zeros(3, RECORD), 1, store, "records")
    whole = store.read("records")
    for size in (8, len(whole) - 1):
        store.put("records", whole[:size])
        with pytest.raises(CorruptManifest, match="cut off"):
            load(0, 1, store, "records")


def test_a_list_is_not_written_before_all_is_matched(tmp_path: Path, certificate: Certificate) -> None:
    url = planted(tmp_path, certificate, {"web": [[0, 1, 0]]})
    job = duplicates_job(open_dataset(url), (), str(tmp_path / "work"), **SMALL)
    with pytest.raises(Unfinished, match="run the same command again"):
        write_list(job, tmp_path / "list.parquet")


@pytest.mark.slow
def test_the_command_goes_on_with_what_is_finished(
    tmp_path: Path, certificate: Certificate, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is finished is not made again: a scan that an earlier attempt left is what the match reads."""
    url = planted(tmp_path, certificate, PLANTED)
    job = duplicates_job(open_dataset(url), (), str(tmp_path / "list.parquet.work"))
    save(np.zeros(2, RECORD), job.ranges, open_store(job.work), job.scanned(0))
    out = tmp_path / "list.parquet"
    line = ["duplicates", str(url), "--out", str(out), "--workers", "1", "--json"]
    assert run(app, line) == 0
    assert json.loads(capsys.readouterr().out) == {"documents": 1, "by_source": {"books": 1, "web": 0}}
    assert pl.read_parquet(out).rows() == [("books", "0.jsonl", 0)]
    assert run(app, line) == 2
    assert "is there already" in capsys.readouterr().err
    out.unlink()
    scan(job, 0)
    assert run(app, line[:-1]) == 0
    *progress, last = capsys.readouterr().out.splitlines()
    assert last == f"{out}: 5 documents (books 2, web 3)"
    told = json.loads(progress[-1])
    assert told["units_done"] == told["units_total"] == len(job.groups) + job.ranges
    assert run(app, ["drop", str(url), "--list", str(out)]) == 0
