"""What differs between two datasets is named by its place, down to the element of a list."""

import dataclasses
import json
from pathlib import Path

import pytest

from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.inspect.diff import Change, diff
from bamba_data.tokenization.conformance import Certificate
from tests.building import build
from tests.corpora import TOKENIZER, records, write_jsonl


def made(out: Path, certificate: Certificate, recipe: Path) -> Dataset:
    build(out, certificate, str(recipe))
    return open_dataset(str(out))


@pytest.fixture
def recipe(tiny_copy: Path) -> Path:
    """The recipe of the tiny dataset, with inputs that may be changed."""
    return tiny_copy.parent / "tiny.yaml"


@pytest.fixture
def before(recipe: Path, certificate: Certificate) -> Dataset:
    return made(recipe.parent / "before", certificate, recipe)


def edit(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def places(changes: list[Change]) -> set[str]:
    return {change.where for change in changes}


def test_a_dataset_does_not_differ_from_itself_or_its_copy(tiny: Path, tiny_copy: Path) -> None:
    dataset = open_dataset(str(tiny))
    assert diff(dataset, dataset) == diff(dataset, open_dataset(str(tiny_copy))) == []


def test_an_element_of_a_list_is_compared_with_its_counterpart(
    recipe: Path, before: Dataset, certificate: Certificate
) -> None:
    edit(recipe, 'attribution: "[b]us[/b]"', 'attribution: "others"')
    after = made(recipe.parent / "after", certificate, recipe)
    assert diff(before, after) == [
        Change("recipe.corpora.1.attribution", "[b]us[/b]", "others"),
        Change("source rows.attribution", "[b]us[/b]", "others"),
    ]


def test_another_tokenizer_shows_in_its_sha256_and_in_every_shard(
    recipe: Path, before: Dataset, certificate: Certificate
) -> None:
    tokenizer = json.loads(TOKENIZER.read_bytes())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 50_280, "content": "<|more|>"})
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20_000]
    (recipe.parent / "other.json").write_text(json.dumps(tokenizer))
    edit(recipe, f"package:{TOKENIZER.name}", "other.json")
    own = dataclasses.replace(certificate, backend="tokenizers")
    changes = diff(before, made(recipe.parent / "after", own, recipe))
    assert {"tokenizer.sha256", "tokenizer.vocab_size", "recipe.tokenizer.url", "totals.tokens"} <= places(changes)
    assert Change("tokenizer.vocab_size", 50_280, 50_281) in changes
    assert sum(" sha256" in place and place.startswith("shard ") for place in places(changes)) >= 8
    assert not any(place.startswith("input ") and "sha256" in place for place in places(changes))


def test_one_more_source_is_named_once_and_with_its_inputs_and_shards(
    recipe: Path, before: Dataset, certificate: Certificate
) -> None:
    write_jsonl(recipe.parent / "inputs/extra.jsonl", records(3, 900, text_chars=300))
    extra = '  - {corpus: folder, name: extra, base: inputs, form: jsonl, files: ["extra.jsonl"]}\nshards:'
    edit(recipe, "shards:", extra)
    changes = diff(before, made(recipe.parent / "after", certificate, recipe))
    added = [change for change in changes if change.before is None]
    assert places(added) == {"source extra", "input extra/extra.jsonl", "shard extra/0/0"}
    assert all(str(change).startswith("+ ") for change in added)
    assert not any(place.split("/")[0].endswith((" lines", " rows")) for place in places(changes))
    back = diff(made(recipe.parent / "after", certificate, recipe), before)
    assert {change.where for change in back if change.after is None} == places(added)


def test_one_changed_input_shows_in_its_sha256_and_its_shards_alone(
    recipe: Path, before: Dataset, certificate: Certificate
) -> None:
    write_jsonl(recipe.parent / "inputs/0.json.gz", records(14, 300, text_chars=700))
    changes = diff(before, made(recipe.parent / "after", certificate, recipe))
    assert "input lines/0.json.gz sha256" in places(changes)
    assert any(place.startswith("shard lines/0/") for place in places(changes))
    assert not any(
        place.startswith(("input rows", "shard rows", "shard lines/1", "recipe")) for place in places(changes)
    )


def test_a_change_is_printed_as_what_was_and_what_is() -> None:
    assert str(Change("a", 1, 2)) == "~ a: 1 -> 2"
    assert str(Change("a", None, 2)) == "+ a: 2"
    assert str(Change("a", 1, None)) == "- a: 1"
