"""`trace` of what is no document: the reason, and the version that left it out."""

import json
import shutil
from pathlib import Path

import pytest

from bamba_data.derive.compacting import compact
from bamba_data.tokenization.conformance import Certificate
from pipelines.cli import app, run
from tests.building import build
from tests.corpora import TOKENIZER, records, write_jsonl
from tests.derive.content import dropped
from tests.sharing import made_once

ROWS = [
    {**row, "text": " ".join(row["text"].split()), "score": n % 4} for n, row in enumerate(records(24, text_chars=300))
]
SOURCE = "def clean(text, columns):\n    return None if columns['score'] == 2 else text.lower()\n"
BAD = b'{"id": "bad", "score": 3}\n'


def make(folder: Path, certificate: Certificate) -> None:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    write_jsonl(folder / "inputs" / "a.jsonl", lines + BAD)
    (folder / "code").mkdir()
    (folder / "clean.py").write_text(SOURCE)
    (folder / "code" / "clean.py").write_text(SOURCE)
    path = folder / "recipe.yaml"
    path.write_text(f"""
name: sieved
tokenizer: {{url: package:{TOKENIZER.name}}}
corpora:
  - corpus: folder
    name: web
    base: inputs
    form: jsonl
    files: ["*.jsonl"]
    where: score > 0
    transform: {{function: "clean:clean", columns: [score]}}
bad_input: {{max_bad_rate: 0.5}}
""")
    build(folder / "out", certificate, str(path))
    dropped(folder / "out", {"doc-5"})


@pytest.fixture(scope="session")
def sieved(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read only. Version 2 drops doc-5."""
    return made_once(tmp_path_factory, "sieved", lambda folder: make(folder, certificate))


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = run(app, ["trace", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).split())


def test_what_where_left_out_is_said_by_reason_and_version(sieved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = said(capsys, sieved / "out", "--input", "web/a.jsonl:4")
    assert code == 0 and "left out where_false, dropped" in told and "version 1 (" in told
    assert "document doc-4 of source web" in told and ROWS[4]["text"][:40] in told


def test_what_transform_left_out_is_said_where_its_source_is_at_hand(
    sieved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (sieved / "out", "--input", "web/a.jsonl:6")
    code, told = said(capsys, *asked, "--code", sieved / "code")
    assert code == 0 and "left out transform_none, dropped" in told and "version 1 (" in told
    code, told = said(capsys, *asked)
    assert code == 2 and "transform clean:clean, sha256" in told and "--code FOLDER" in told
    (tmp_path / "clean.py").write_text(SOURCE + "# another\n")
    code, told = said(capsys, *asked, "--code", tmp_path)
    assert code == 2 and "is another source" in told


def test_a_bad_record_is_said_by_its_dead_letter(sieved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = said(capsys, sieved / "out", "--input", "web/a.jsonl:24")
    assert code == 0 and "left out missing_text, a dead letter" in told and "no field 'text'" in told


def test_a_document_that_is_in_no_shard_is_looked_for_upstream_if_one_says_so(
    sieved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = said(capsys, sieved / "out", "--document", "web:doc-8")
    assert code == 2 and "1 removed, 6 transform_none, 6 where_false" in told and "--upstream" in told
    code, told = said(capsys, sieved / "out", "--document", "web:doc-8", "--upstream")
    assert code == 0 and "where_false" in told
    code, told = said(capsys, sieved / "out", "--document", "web:doc-99", "--upstream", "--code", sieved / "code")
    assert code == 2 and "in no shard" in told


def test_what_a_version_dropped_is_said_with_the_version_and_its_command(
    sieved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (("--document", "web:doc-5"), ("--input", "web/a.jsonl:5")):
        code, told = said(capsys, sieved / "out", *place, "--code", sieved / "code")
        assert code == 0 and "by `drop` (" in told and "list " in told and "of version 2 (" in told
    url = Path(shutil.copytree(sieved / "out", tmp_path / "out"))
    assert compact(str(url), 0)
    dropped(url, {"doc-7"})
    for name, number in (("doc-5", 2), ("doc-7", 4)):
        code, told = said(capsys, url, "--document", f"web:{name}", "--code", sieved / "code")
        assert code == 0 and f"of version {number} (" in told, name


def test_a_document_that_is_there_is_proven_only_by_the_source_that_made_it(
    sieved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = said(capsys, sieved / "out", "--input", "web/a.jsonl:7", "--code", sieved / "code")
    assert code == 0 and "same ids yes: the upstream text, changed by clean:clean and encoded again" in told
    code, told = said(capsys, sieved / "out", "--input", "web/a.jsonl:7")
    assert code == 0 and "not checked: transform clean:clean" in told and ROWS[7]["text"][:30] in told


def test_an_input_that_there_is_not_is_refused(sieved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, why in [("web/b.jsonl:1", "there are web/a.jsonl"), ("web:1", "expected SOURCE/PATH:ROW")]:
        code, told = said(capsys, sieved / "out", "--input", place)
        assert code == 2 and why in told
    code, told = said(capsys, sieved / "out", "--input", "web/a.jsonl:999")
    assert code == 2 and "has no row 999" in told
    assert said(capsys, sieved / "out", "--input", "web/a.jsonl:1", "--upstream")[0] == 2
