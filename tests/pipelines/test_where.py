"""`where` in a recipe: what is kept, what is dropped and why, in the corpora's own layouts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bamba_data.errors import BudgetExceeded, RecipeError, WrongForm
from bamba_data.format.manifest import Manifest
from bamba_data.inspect.verify import verify
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.staged_records import Staging
from tests.building import build, prepared
from tests.corpora import TOKENIZER, records, write_jsonl

ROWS = [
    {**row, "int_score": n % 6 if n % 10 else None, "language": "en" if n % 3 else "fr"}
    for n, row in enumerate(records(60, text_chars=400))
]
GOOD = "int_score >= 4 AND language = 'en'"


def wanted(row: dict[str, Any]) -> bool:
    return row["int_score"] is not None and row["int_score"] >= 4 and row["language"] == "en"


def unknown(row: dict[str, Any]) -> bool:
    return row["int_score"] is None and row["language"] == "en"


def recipe(folder: Path, where: str | None, form: str = "parquet") -> str:
    if form == "parquet":
        (folder / "inputs").mkdir(exist_ok=True)
        columns = {name: [row[name] for row in ROWS] for name in ("text", "id", "int_score", "language")}
        pq.write_table(pa.table(columns), folder / "inputs" / "a.parquet", row_group_size=8)
    else:
        write_jsonl(folder / "inputs" / "a.json.gz", ROWS)
    said = "" if where is None else f", where: {json.dumps(where)}"
    path = folder / "where.yaml"
    path.write_text(
        f"""
name: where
tokenizer: {{url: package:{TOKENIZER.name}}}
corpora: [{{corpus: folder, name: web, base: inputs, form: {form}, files: ["a.*"]{said}}}]
shards: {{block_tokens: 700, blocks_per_shard: 2}}
""",
        encoding="utf-8",
    )
    return str(path)


def made(folder: Path, certificate: Certificate, where: str | None, form: str, out: str = "out") -> Manifest:
    return build(folder / out, certificate, recipe(folder, where, form))[1]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_build_keeps_those_for_which_it_is_true_and_counts_the_others(
    tmp_path: Path, certificate: Certificate, form: str
) -> None:
    manifest = made(tmp_path, certificate, GOOD, form)
    account = manifest.totals
    assert account.read == 60
    assert account.kept == sum(map(wanted, ROWS))
    nulls = sum(map(unknown, ROWS))
    assert account.dropped == {"where_false": 60 - account.kept - nulls, "where_null": nulls}
    assert account.balanced
    assert verify(str(tmp_path / "out"), full=True).faults == []
    assert made(tmp_path, certificate, GOOD, form, "again").identity == manifest.identity


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_column_that_the_corpus_has_not_is_refused_and_those_that_it_has_are_named(
    tmp_path: Path, certificate: Certificate, form: str
) -> None:
    with pytest.raises(WrongForm, match=r"'int_scor'.*int_score, language"):
        made(tmp_path, certificate, "int_scor >= 4", form)


def test_another_condition_is_another_lock_and_other_units(tmp_path: Path, certificate: Certificate) -> None:
    plans = [
        prepared(tmp_path / "out", certificate, recipe(tmp_path, where)) for where in (None, GOOD, "int_score >= 4")
    ]
    assert len({plan.lock_digest for plan in plans}) == 3
    assert len({plan.plan.units[0].key for plan in plans}) == 3


def test_a_text_where_a_number_is_compared_is_refused_before_the_first_row(
    tmp_path: Path, certificate: Certificate
) -> None:
    with pytest.raises(WrongForm, match="cannot compare"):
        made(tmp_path, certificate, "language >= 4", "parquet")


def test_in_lines_it_is_a_dead_letter_of_its_record(tmp_path: Path, certificate: Certificate) -> None:
    with pytest.raises(BudgetExceeded, match="where_mismatch"):
        made(tmp_path, certificate, "language >= 4", "jsonl")


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, certificate: Certificate, form: str) -> None:
    whole = made(tmp_path, certificate, "int_score >= 2", form)
    (record,) = (tmp_path / "out").glob("_bamba/units/web/*/unit.json")
    staging, key = Staging(open_store(tmp_path / "out")), record.parent.name
    finished = staging.unit("web", key)
    assert finished is not None and len(finished.parts) > 2
    record.unlink()
    for part in finished.parts[:2]:  # as after a kill: two parts are there, and what follows is not
        staging.save_part("web", key, part)
    again = made(tmp_path, certificate, "int_score >= 2", form)
    assert (again.identity, again.totals) == (whole.identity, whole.totals)
    assert [source.shards for source in again.sources] == [source.shards for source in whole.sources]


def test_null_may_be_refused_instead(tmp_path: Path, certificate: Certificate) -> None:
    path = recipe(tmp_path, GOOD)
    with pytest.raises(BudgetExceeded, match="where_null"):
        build(tmp_path / "out", certificate, path, ["bad_input.policy={where_null: dead_letter}"])
    with pytest.raises(RecipeError, match="say in `where` what is to be kept"):
        build(tmp_path / "out", certificate, path, ["bad_input.policy={where_null: keep}"])


@pytest.mark.parametrize(
    "where",
    ["int_score > AVG(int_score)", "COUNT(*) > 1", "NOW() > '2020'", "int_score", "", "TRUE", "a > 1; DROP TABLE b"],
)
def test_what_is_no_condition_on_one_document_is_refused_with_the_recipe(
    tmp_path: Path, certificate: Certificate, where: str
) -> None:
    with pytest.raises((RecipeError, WrongForm), match="where"):
        made(tmp_path, certificate, where, "parquet")
