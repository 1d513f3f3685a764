"""A rule for bad input that changes nothing in a unit does not make it again; one that does makes that unit alone."""

from pathlib import Path

import pytest

from bamba_data.document import Ledger
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.recipe import BadInput
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.reuse import Met
from tests.building import build, prepared
from tests.corpora import lines, recipe, records, write_jsonl


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Three files, a unit each: with an id twice, with a NUL and an empty text, and sound."""
    first = records(8, text_chars=300)
    write_jsonl(tmp_path / "inputs" / "0.json.gz", [*first, first[3]])
    odd = b'{"id": "nul", "text": "a\\u0000b"}\n{"id": "empty", "text": ""}\n'
    write_jsonl(tmp_path / "inputs" / "1.json.gz", lines(records(8, 20, text_chars=300)) + odd)
    write_jsonl(tmp_path / "inputs" / "2.json.gz", records(8, 40, text_chars=300))
    return str(recipe(tmp_path, extra="unit_bytes: 1\nbad_input: {max_bad_rate: 0.5}"))


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("policy={duplicate_id: keep}", ["0.json.gz"]),
        ("policy={duplicate_id: drop}", ["0.json.gz"]),
        ("policy={nul: keep}", ["1.json.gz"]),
        ("policy={bad_json: drop, missing_text: drop, line_too_long: drop}", []),
        ("policy={duplicate_id: dead_letter}", []),
        ("policy={empty_text: dead_letter}", ["1.json.gz"]),
        ("max_bad_rate=0.25", []),
        ("max_document_bytes=17000000", []),
        ("max_line_bytes=99000000", []),
        ("max_inflate_ratio=300", []),
        ("max_document_bytes=2048", ["0.json.gz", "1.json.gz", "2.json.gz"]),
        ("quarantine=[texts/2.json.gz]", ["2.json.gz"]),
    ],
)
def test_only_units_where_a_rule_matters_are_made_again(
    override: str, again: list[str], path: str, tmp_path: Path, certificate: Certificate
) -> None:
    build(tmp_path / "out", certificate, path)
    ready = prepared(tmp_path / "out", certificate, path, [f"bad_input.{override}"])
    assert sorted(file.locked.path for unit in ready.remaining() for file in unit.files) == again


def test_what_is_taken_over_is_what_would_have_been_made(path: str, tmp_path: Path, certificate: Certificate) -> None:
    rules = ["bad_input.policy={duplicate_id: keep, bad_json: drop}"]
    build(tmp_path / "out", certificate, path)
    build(tmp_path / "out", certificate, path, rules)
    build(tmp_path / "fresh", certificate, path, rules)
    mine, fresh = open_dataset(str(tmp_path / "out")), open_dataset(str(tmp_path / "fresh"))
    assert mine.version.number == 2
    assert mine.identity == fresh.identity
    assert mine.manifest.sources[0].account == fresh.manifest.sources[0].account
    assert mine.manifest.totals.notes == {"duplicate_id": 1}
    assert mine.manifest.totals.dead_lettered == {"nul": 1}
    assert verify(str(tmp_path / "out"), full=True).faults == []


def test_a_limit_that_was_exceeded_or_is_lowered_may_change_a_unit() -> None:
    rules = BadInput(max_document_bytes=2048)
    met = Met.of(rules, Ledger(dead_lettered={"document_too_large": 2}, notes={"duplicate_id": 1, "id_made": 3}))
    assert Met.parsed(str(met)) == met
    assert met.actions == (("document_too_large", "dead_letter"), ("duplicate_id", "dead_letter"))
    for other, fits in [
        (rules, True),
        (BadInput(max_document_bytes=4096), False),
        (BadInput(max_document_bytes=1024), False),
    ]:
        assert met.fits(other) == fits
    assert not met.fits(BadInput(max_document_bytes=2048, policy={"duplicate_id": "keep"}))
    assert Met.parsed("1.2.3.unheard_of=drop") is None
    assert Met.parsed("1.2") is None


def test_dolma_builds_as_shipped_with_its_duplicate_ids_counted(tmp_path: Path, certificate: Certificate) -> None:
    books = tmp_path / "dolma" / "books"
    for number in range(3):
        rows = records(100, 100 * number, text_chars=200)
        write_jsonl(books / f"books-000{number}.json.gz", [*rows, *rows[:60]])
    corpus = f"corpora.0={{corpus: dolma-v1_7, base: {tmp_path / 'dolma'}, datasets: [books]}}"
    _, manifest = build(tmp_path / "out", certificate, "dolma-v1_7", [corpus])
    assert manifest.totals.notes == {"duplicate_id": 180}
    assert manifest.totals.kept == 480 and manifest.totals.dead_lettered == {}
