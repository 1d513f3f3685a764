"""Documents that share 13 tokens in a row with a text of an evaluation are listed, whatever their source; no others."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamba_data.clean.contaminated import Contaminated, OfTask, contaminated_job, scan, write_list
from bamba_data.clean.evaluation_texts import EvaluationText, read_texts
from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.errors import Unfinished, UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.cli import app, run
from tests.clean.planting import dataset_of_texts
from tests.corpora import TOKENIZER, texts, write_jsonl
from tests.derive.content import dropped

Sources = dict[str, list[list[str]]]
Stands = list[tuple[str, str, int]]


def prose(number: int) -> str:
    return texts()[number][:300]


def with_words_of(number: int, asked: str) -> str:
    """Prose in which a text stands."""
    return f"{prose(number)}\n{asked}\n{prose(number + 1)}"


def question(number: int) -> str:
    """Text of an evaluation, from the end of the demo's texts, which no document of these tests is made of."""
    return texts()[-1 - number][100:250]


def found(
    url: Path, folder: Path, asked: Sequence[EvaluationText], common: int = 10, sources: Sequence[str] = ()
) -> tuple[Contaminated, Stands]:
    """What the job lists, run in this process, a group a shard, the last one first."""
    job = contaminated_job(open_dataset(url), asked, str(folder / "work"), sources, common, group_tokens=1)
    for group in reversed(range(len(job.groups))):
        scan(job, group)
    out = folder / "list.parquet"
    out.unlink(missing_ok=True)
    report = write_list(job, out)
    assert not list((folder / "work").rglob("*.parquet"))
    return report, sorted(read_list(out).entries.rows()) if out.exists() else []


def expected(sources: Sources, asked: Sequence[EvaluationText], common: int = 10) -> Stands:
    """By the rule, in words of Python."""
    encode = Tokenizer(TOKENIZER.read_bytes()).reference.hf.encode

    def grams(text: str) -> set[tuple[int, ...]]:
        ids = encode(text, add_special_tokens=False).ids
        return {tuple(ids[start : start + 13]) for start in range(len(ids) - 12)}

    wanted = set().union(*(grams(text) for _, text in asked))
    documents = {
        (name, f"{number}.jsonl", row): grams(text) & wanted
        for name, files in sources.items()
        for number, its in enumerate(files)
        for row, text in enumerate(its)
    }
    often = Counter(gram for its in documents.values() for gram in its)
    return sorted(stand for stand, its in documents.items() if any(often[gram] <= common for gram in its))


ASKED = [
    EvaluationText("reading", question(0)),
    EvaluationText("reading", question(1)),
    EvaluationText("law", question(2)),
]
PLANTED: Sources = {
    "web": [[prose(0), with_words_of(2, question(0)), prose(4)], [with_words_of(6, question(2))]],
    "books": [[prose(8), prose(10)], [question(0), with_words_of(12, question(2)[20:])]],
}


def test_planted_texts_are_found_in_every_source_and_nothing_else(tmp_path: Path, certificate: Certificate) -> None:
    url = dataset_of_texts(tmp_path, certificate, PLANTED)
    report, listed = found(url, tmp_path, ASKED)
    assert listed == [("books", "1.jsonl", 0), ("books", "1.jsonl", 1), ("web", "0.jsonl", 1), ("web", "1.jsonl", 0)]
    assert listed == expected(PLANTED, ASKED)
    assert report.by_source == {"books": 2, "web": 2}
    assert report.by_task == {"reading": OfTask(2, 0, 1, 0, 2), "law": OfTask(1, 0, 1, 0, 2)}
    report, listed = found(url, tmp_path, ASKED, sources=["web"])
    assert listed == expected({"web": PLANTED["web"]}, ASKED)
    assert report.by_source == {"web": 2}


def test_the_list_drops_them_and_then_there_are_none(tmp_path: Path, certificate: Certificate) -> None:
    url = dataset_of_texts(tmp_path, certificate, PLANTED)
    report, listed = found(url, tmp_path, ASKED)
    made = drop(str(url), read_list(tmp_path / "list.parquet"))
    assert made is not None and made.documents == report.documents == len(listed)
    report, listed = found(url, tmp_path, ASKED)
    assert (report.documents, listed) == (0, [])
    assert report.by_task["law"] == OfTask(texts=1, short=0, hit=0, passed_over=0, documents=0)
    assert not (tmp_path / "list.parquet").exists()


def test_what_more_documents_have_than_the_rule_allows_is_passed_over_and_said(
    tmp_path: Path, certificate: Certificate
) -> None:
    """Over all groups together: here the documents are in several."""
    often = {"web": [[with_words_of(2 * n, question(0))] for n in range(4)] + [[with_words_of(10, question(2))]]}
    url = dataset_of_texts(tmp_path, certificate, often)
    assert len(open_dataset(url).shards) > 2
    report, listed = found(url, tmp_path, ASKED, common=4)
    assert len(listed) == 5 and report.by_task["reading"] == OfTask(2, 0, 1, 0, 4)
    report, listed = found(url, tmp_path, ASKED, common=3)
    assert listed == [("web", "4.jsonl", 0)] == expected(often, ASKED, 3)
    assert report.by_task["reading"] == OfTask(texts=2, short=0, hit=0, passed_over=1, documents=0)


def test_a_document_that_has_left_is_neither_found_nor_counted(tmp_path: Path, certificate: Certificate) -> None:
    sources = {"web": [[with_words_of(2 * n, question(0)) for n in range(3)]]}
    url = dataset_of_texts(tmp_path, certificate, sources)
    assert found(url, tmp_path, ASKED, common=2)[1] == []
    dropped(url, {"web-0-1"})
    assert found(url, tmp_path, ASKED, common=2)[1] == [("web", "0.jsonl", 0), ("web", "0.jsonl", 2)]


def test_a_text_of_less_than_thirteen_tokens_is_counted_and_none_else_is_refused(
    tmp_path: Path, certificate: Certificate
) -> None:
    url = dataset_of_texts(tmp_path, certificate, {"web": [["Who was it? " + prose(0)]]})
    short = [EvaluationText("short", "Who was it?")]
    report, _ = found(url, tmp_path, [*short, *ASKED])
    assert report.by_task["short"] == OfTask(texts=1, short=1, hit=0, passed_over=0, documents=0)
    with pytest.raises(UserError, match="none of 1 texts has 13 tokens"):
        found(url, tmp_path, short)


@pytest.mark.costly
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["web", "books", "code"]),
        st.lists(
            st.lists(st.tuples(st.integers(0, 60), st.none() | st.integers(0, 2), st.integers(0, 60)), min_size=1),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
    ),
    st.integers(1, 5),
)
def test_whatever_is_planted_is_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    certificate: Certificate,
    chosen: dict[str, list[list[tuple[int, int | None, int]]]],
    common: int,
) -> None:
    """Whole questions and parts of them, from long enough to too short."""
    folder = tmp_path_factory.mktemp("planted")
    sources = {
        name: [
            [prose(n) if asked is None else with_words_of(n, question(asked)[cut:]) for n, asked, cut in its]
            for its in files
        ]
        for name, files in chosen.items()
    }
    assert found(dataset_of_texts(folder, certificate, sources), folder, ASKED, common)[1] == expected(
        sources, ASKED, common
    )


def test_texts_are_read_by_task_from_both_forms(tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "reading.jsonl", [{"text": "a"}, {"text": "b"}])
    pl.DataFrame({"task": ["law", "art"], "text": ["c", "d"]}).write_parquet(tmp_path / "several.parquet")
    assert read_texts([lines, tmp_path / "several.parquet"]) == [
        ("reading", "a"),
        ("reading", "b"),
        ("law", "c"),
        ("art", "d"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a", "choices": "b"}', "has the fields text, choices"),
        ("a.jsonl", '{"question": "a"}', "has the fields question"),
        ("a.jsonl", '{"text": "a"}\n{"text": ""}', "text is missing or empty in 1 of 2"),
        ("a.jsonl", '{"text": "a", "task": "b"}\n{"text": "a"}', "task is missing or empty in 1 of 2"),
        ("a.jsonl", '{"text": 3}', "it must be text"),
        ("a.jsonl", "", "has the fields none"),
        ("a.jsonl", "{", "cannot be read as jsonl"),
        ("a.parquet", "text", "cannot be read as parquet"),
        ("a.txt", "text", "named .jsonl, .ndjson or .parquet"),
        ("other/b.jsonl", '{"text": "a"}', "both would be the task 'b'"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    good = write_jsonl(tmp_path / "b.jsonl", [{"text": "a"}])
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read_texts([good, path])


@pytest.mark.slow
def test_the_command_goes_on_with_what_is_finished(
    tmp_path: Path, certificate: Certificate, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is finished is not made again: what an earlier attempt left of a group is what is listed."""
    url = dataset_of_texts(tmp_path, certificate, PLANTED)
    asked = write_jsonl(tmp_path / "asked.jsonl", [text._asdict() for text in ASKED])
    out = tmp_path / "list.parquet"
    job = contaminated_job(open_dataset(url), ASKED, f"{out}.work")
    with pytest.raises(Unfinished, match="not read yet"):
        write_list(job, out)
    scan(job, 0)
    left = Path(f"{out}.work") / job.scanned(0)
    pl.read_parquet(left).clear().write_parquet(left)
    line = ["contaminated", str(url), "--against", str(asked), "--out", str(out), "--workers", "1"]
    assert run(app, [*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 0
    assert not out.exists()
    assert run(app, line) == 0
    said = capsys.readouterr().out
    assert "4 documents (books 2, web 2)" in said and "reading" in said
    assert run(app, line) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(app, ["drop", str(url), "--list", str(out)]) == 0
