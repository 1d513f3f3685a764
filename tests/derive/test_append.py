"""An append reads new inputs alone: the shards that are there stay, and what is served is old and new together."""

import json
from pathlib import Path

import polars as pl
import pytest

from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect import garbage
from bamba_data.inspect.diff import diff
from bamba_data.inspect.trace import find_document, trace
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from pipelines.dataset_build import unit as units
from pipelines.dataset_build.readers import open_input
from tests.corpora import TOKENIZER, records, write_jsonl, write_parquet
from tests.derive.appended import append
from tests.derive.content import dropped, objects, read, served, stored, tokens_of, without


@pytest.fixture
def recipe(tiny_copy: Path) -> Path:
    """That of the tiny dataset, with two more inputs: one of them sorts first."""
    write_jsonl(tiny_copy.parent / "inputs" / "+first.json.gz", records(6, 200, text_chars=500))
    write_parquet(tiny_copy.parent / "inputs" / "z.parquet", records(7, 300, text_chars=400))
    return tiny_copy.parent / "tiny.yaml"


def test_new_inputs_come_behind_what_is_there(
    tiny_copy: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, shards = stored(tiny_copy), objects(tiny_copy)
    opened: list[str] = []

    def watched(stack: object, locked: object, *rest: object) -> object:
        opened.append(locked.path)  # type: ignore[attr-defined]
        return open_input(stack, locked, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(units, "open_input", watched)
    appending, manifest = append(tiny_copy, recipe)
    assert sorted(opened) == ["+first.json.gz", "z.parquet"] and appending.files == 2
    now = stored(tiny_copy)
    fresh = {f"doc-{n}" for n in (*range(200, 206), *range(300, 307))}
    assert without(now, fresh) == before and now.total() == before.total() + 13
    assert {name: data for name, data in objects(tiny_copy).items() if name in shards} == shards
    assert read(tiny_copy, tmp_path / "cache") == tokens_of(now)
    for source in ("lines", "rows"):
        lengths = {name: len(tokens) + 1 for where, name, tokens in now if where == source}
        assert served(tiny_copy, tmp_path / "cache", source) == lengths
    assert verify(str(tiny_copy), full=True).faults == []
    assert manifest is not None and manifest.derived is not None and manifest.derived.command == "append"
    assert len(manifest.software) == 2 and manifest.totals.kept == now.total()
    assert {change.where for change in diff(open_dataset(f"{tiny_copy}@1"), open_dataset(tiny_copy))} >= {
        "input lines/+first.json.gz",
        "input rows/z.parquet",
    }


def test_every_document_old_and_new_is_traced_to_its_line(tiny_copy: Path, recipe: Path) -> None:
    append(tiny_copy, recipe)
    dataset = open_dataset(tiny_copy)
    for place in ("lines:doc-203", "rows:doc-305", "lines:doc-20", "rows:doc-111"):
        assert trace(dataset, find_document(dataset, place)[0], Fetcher()).same is True


def test_again_there_is_nothing_new(tiny_copy: Path, recipe: Path) -> None:
    append(tiny_copy, recipe)
    appending, manifest = append(tiny_copy, recipe)
    assert (appending.prepared, manifest) == (None, None)
    assert open_dataset(tiny_copy).version.number == 2


def test_what_was_dropped_stays_dropped_and_new_documents_can_be_dropped_too(
    tiny_copy: Path, recipe: Path, tmp_path: Path
) -> None:
    dropped(tiny_copy, {"doc-0", "doc-101"})
    append(tiny_copy, recipe)
    dropped(tiny_copy, {"doc-1", "doc-200", "doc-306"})
    wanted = without(stored(tiny_copy), {"doc-0", "doc-101", "doc-1", "doc-200", "doc-306"})
    assert read(tiny_copy, tmp_path / "cache") == tokens_of(wanted)
    assert open_dataset(tiny_copy).manifest.totals.dropped["removed"] == 5
    assert verify(str(tiny_copy), full=True).faults == []


def test_another_recipe_brings_a_source_of_its_own(tiny_copy: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "more" / "a.jsonl", records(5, 500, text_chars=300))
    recipe = tmp_path / "more.yaml"
    recipe.write_text(
        f"name: more\ntokenizer: {{url: package:{TOKENIZER.name}}}\ncorpora:\n"
        '  - {corpus: folder, name: extra, base: more, form: jsonl, files: ["*.jsonl"]}\n'
    )
    before = stored(tiny_copy)
    append(tiny_copy, recipe)
    dataset = open_dataset(tiny_copy)
    assert [source.name for source in dataset.manifest.sources] == ["lines", "rows", "extra"]
    assert read(tiny_copy, tmp_path / "cache").total() == before.total() + 5
    assert verify(str(tiny_copy), full=True).faults == []
    orphans = {entry.path for entry in garbage.find(str(tiny_copy), 0).orphans}
    # The tables of the new part alone, and what it was locked by: an append locks anew.
    assert [path for path in orphans if not path.startswith(("_bamba/tables/", "_bamba/locks/"))] == []


def test_what_has_changed_is_refused(tiny_copy: Path, recipe: Path) -> None:
    write_jsonl(tiny_copy.parent / "inputs" / "0.json.gz", records(3, 0, text_chars=100))
    with pytest.raises(UserError, match=r"have changed: lines/0\.json\.gz has .* bytes, it had"):
        append(tiny_copy, recipe)
    assert open_dataset(tiny_copy).version.number == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("corpora.0.license=MIT", "source lines: license is 'MIT' in the recipe, 'CC0-1.0' in the dataset"),
        ("corpora.0.text={text_field: body}", "source lines: text is"),
    ],
)
def test_a_source_of_another_meaning_is_refused(tiny_copy: Path, recipe: Path, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        append(tiny_copy, recipe, override)


def test_another_tokenizer_is_refused(tiny_copy: Path, recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(TOKENIZER.read_bytes())))
    with pytest.raises(UserError, match="its ids do not mean the same"):
        append(tiny_copy, recipe, f"tokenizer.url={other}")


def test_inputs_that_are_gone_stay_and_are_told(tiny_copy: Path, recipe: Path) -> None:
    (tiny_copy.parent / "inputs" / "2.json.gz").unlink()
    appending, _ = append(tiny_copy, recipe)
    assert appending.remarks == ("1 inputs of version 1 are not in the recipe (lines/2.json.gz): they stay",)
    assert "2.json.gz" in open_dataset(tiny_copy).files.filter(pl.col("source") == "lines")["path"].to_list()
