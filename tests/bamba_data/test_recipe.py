"""A recipe is read as it is meant, or refused with the file and the field."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data import canonical_json
from bamba_data.document import REASONS
from bamba_data.errors import RecipeError
from bamba_data.recipe import Recipe, load, load_file
from pipelines.cli.options import RECIPES

PLAIN = """
name: mine
tokenizer: {url: package:olmo.json}
corpora:
  - {corpus: folder, name: a, base: texts, form: jsonl, files: [a.jsonl, b.jsonl]}
  - {corpus: folder, name: b, base: texts, form: jsonl, files: ["*.jsonl"]}
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, "my.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_with_us_loads_and_pins_its_tokenizer(path: Path) -> None:
    recipe = load_file(path)
    assert recipe.name == path.stem
    assert recipe.tokenizer.sha256


def test_the_recipes_that_the_readme_promises_are_there() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} >= {
        *("demo", "dolma-v1_7", "fineweb-edu", "cosmopedia", "smollm-corpus", "long-documents"),
        *("olmo-mix-1124", "dolmino-mix-1124", "nemotron-cc", "finemath", "dclm-baseline"),
        *("bamba-v2-3t", "bamba-v2-anneal"),
    }


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_survives_being_written_as_canonical_json(path: Path) -> None:
    recipe = load_file(path)
    raw = canonical_json.loads(canonical_json.dumps(recipe.model_dump(mode="json")), "there", 1 << 20)
    assert Recipe.model_validate(raw) == recipe


def test_the_defaults_are_strict() -> None:
    recipe = load(PLAIN, "my.yaml")
    assert (recipe.bad_input.max_bad_rate, recipe.bad_input.quarantine, recipe.limits.files) == (1e-6, [], None)


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "1.e-6", "1E-6", "0.000001", "+1e-06"])
def test_a_rate_may_be_written_in_every_usual_way(text: str) -> None:
    assert load(f"{PLAIN}\nbad_input: {{max_bad_rate: {text}}}", "my.yaml").bad_input.max_bad_rate == 1e-6


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("colour: red", "my.yaml: colour: Extra inputs are not permitted (it is 'red')"),
        ("limits: {file: 3}", "my.yaml: limits.file: Extra inputs are not permitted (it is 3)"),
        ("unit_bytes: '5'", "my.yaml: unit_bytes: Input should be a valid integer (it is '5')"),
        ("unit_bytes: 1e6", "my.yaml: unit_bytes: Input should be a valid integer (it is 1000000.0)"),
        ("unit_bytes: 0", "my.yaml: unit_bytes: Input should be greater than or equal to 1 (it is 0)"),
        ("unit_bytes: true", "my.yaml: unit_bytes: Input should be a valid integer (it is True)"),
        ("bad_input: {max_bad_rate: 2}", "my.yaml: bad_input.max_bad_rate: Input should be less than or equal to 1"),
        ("bad_input: {max_bad_rate: .nan}", "my.yaml: bad_input.max_bad_rate: Input should be a finite number"),
        ("network: {retry_seconds: .inf}", "my.yaml: network.retry_seconds: Input should be a finite number"),
        ("network: {requests_per_second: 0}", "my.yaml: network.requests_per_second: Input should be greater than 0"),
        ("shards: {block_tokens: 8}", "my.yaml: shards.block_tokens: Input should be greater than or equal to 16"),
        ("shards: 5", "my.yaml: shards: "),
        ("limits: {documents: 0}", "my.yaml: limits.documents: "),
        ("bad_input: {policy: {sad: drop}}", "my.yaml: bad_input.policy: 'sad' is no reason; the reasons are bad_json"),
        ("bad_input: {policy: {bad_json: keep}}", "my.yaml: bad_input.policy: 'bad_json' cannot be kept"),
        ("bad_input: {policy: {nul: ignore}}", "my.yaml: bad_input.policy.nul: Input should be 'keep', 'drop' or"),
        ("7: seven", "my.yaml: 7: Keys should be strings"),
    ],
)
def test_an_error_names_the_file_the_field_and_what_it_is(addition: str, expected: str) -> None:
    assert refusal(f"{PLAIN}\n{addition}\n").startswith(expected)


def test_every_error_is_named_and_not_only_the_first() -> None:
    assert len(refusal(f"{PLAIN}\nunit_bytes: x\nshards: {{block_tokens: y}}").splitlines()) == 2


@pytest.mark.parametrize("field", ["name", "tokenizer", "corpora"])
def test_a_missing_field_is_named(field: str) -> None:
    raw = {key: value for key, value in yaml.safe_load(PLAIN).items() if key != field}
    assert refusal(yaml.safe_dump(raw)) == f"my.yaml: {field}: Field required"


@pytest.mark.parametrize("sha256", ["abc", "A" * 64, "g" * 64, "0" * 63])
def test_a_sha256_is_64_lower_hex_digits(sha256: str) -> None:
    assert refusal(PLAIN, f"tokenizer.sha256='{sha256}'").startswith("my.yaml: tokenizer.sha256: ")


@pytest.mark.parametrize(
    "text",
    [
        f"{PLAIN}\nname: again",
        PLAIN.replace("form: jsonl", "form: jsonl, form: parquet"),
        f"{PLAIN}\nlimits: {{files: 1, files: 2}}",
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    assert "stands twice" in refusal(text)


@pytest.mark.parametrize(
    "text",
    ["", "5", "[1]", "{", "a: b: c", "name: \0", "[" * 2000, "a: " + "[" * 1200 + "]" * 1200, "? [a]\n: b"],
)
def test_what_is_no_mapping_in_yaml_is_refused(text: str) -> None:
    assert refusal(text).startswith("my.yaml: ")


def test_yaml_that_would_run_code_is_refused() -> None:
    assert "could not determine a constructor" in refusal(f"{PLAIN}\nunit_bytes: !!python/object/apply:os.getpid []")


@pytest.mark.parametrize("other", ["a", "A"])
def test_two_sources_that_would_share_a_folder_are_refused(other: str) -> None:
    assert "source names must be distinct, ['a'] stand twice" in refusal(PLAIN, f"corpora.1.name={other}")


def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    for name in ("missing.yaml", "latin.yaml"):
        with pytest.raises(RecipeError, match=f"{name}: cannot be read"):
            load_file(tmp_path / name)


# -- what becomes of bad records


@pytest.mark.parametrize(("reason", "action"), REASONS.items())
def test_each_reason_has_its_default_action(reason: str, action: str) -> None:
    assert load(PLAIN, "my.yaml").bad_input.action(reason) == action


def test_a_policy_changes_one_reason_only() -> None:
    rules = load(PLAIN, "my.yaml", ["bad_input.policy={nul: keep, bad_json: drop}"]).bad_input
    changed = {reason for reason, action in REASONS.items() if rules.action(reason) != action}
    assert (changed, rules.action("nul"), rules.action("bad_json")) == ({"nul", "bad_json"}, "keep", "drop")


# -- overrides


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("name=other", lambda r: (r.name, "other")),
        ("limits.files=3", lambda r: (r.limits.files, 3)),
        ("bad_input.max_bad_rate=1e-3", lambda r: (r.bad_input.max_bad_rate, 1e-3)),
        ("bad_input.policy.nul=keep", lambda r: (r.bad_input.policy, {"nul": "keep"})),
        ("bad_input.quarantine=[a/x.jsonl]", lambda r: (r.bad_input.quarantine, ["a/x.jsonl"])),
        ("corpora.0.files.1=c.jsonl", lambda r: (r.corpora[0].files, ["a.jsonl", "c.jsonl"])),
        ("corpora.1.text={fields: [body]}", lambda r: (r.corpora[1].text.fields, ["body"])),
        ("corpora.1.text.id_field=null", lambda r: (r.corpora[1].text.id_field, None)),
        ("tokenizer.url=a=b", lambda r: (r.tokenizer.url, "a=b")),
    ],
)
def test_an_override_reaches_nested_fields_and_elements(override: str, place: Any) -> None:
    found, expected = place(load(PLAIN, "my.yaml", [override]))
    assert found == expected


def test_later_overrides_win() -> None:
    assert load(PLAIN, "my.yaml", ["unit_bytes=1", "unit_bytes=2"]).unit_bytes == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("limits", "--set limits: expected a.b=value"),
        ("=3", "--set =3: expected a.b=value"),
        ("corpora.2.name=c", "--set corpora.2.name: '2' is no index into a list of 2"),
        ("corpora.-1.name=c", "--set corpora.-1.name: '-1' is no index into a list of 2"),
        ("corpora.².name=c", "--set corpora.².name: '²' is no index into a list of 2"),
        ("corpora.0.files.2=c", "--set corpora.0.files.2: '2' is no index into a list of 2"),
        ("corpora.name=c", "--set corpora.name: 'name' is no index into a list of 2"),
        ("name.first=c", "--set name.first: 'first' would stand below a plain value"),
        ("name.first.second=c", "--set name.first.second: 'first' would stand below a plain value"),
        ("limits={files: 1", "--set limits: not YAML: "),
        ("limits={files: 1, files: 2}", "--set limits: not YAML: key 'files' stands twice"),
        ("limits.file=1", "my.yaml: limits.file: Extra inputs are not permitted (it is 1)"),
        ("unit_bytes=many", "my.yaml: unit_bytes: Input should be a valid integer (it is 'many')"),
        ("a..b=1", "my.yaml: a: Extra inputs are not permitted"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(override: str, expected: str) -> None:
    assert refusal(PLAIN, override).startswith(expected)


KEYS = st.sampled_from(["name", "limits", "corpora", "0", "1", "files", "tokenizer", "x", "", "-1", "bad_input"])


@given(
    path=st.lists(KEYS, min_size=1, max_size=4),
    value=st.text("ab{}[]:,'\"&*!%@`|>-?# \n", max_size=8) | st.sampled_from(["5", "null", "[1]", "{a: b}"]),
)
@settings(max_examples=200, deadline=None)
def test_any_override_is_either_applied_or_refused_as_a_recipe_error(path: list[str], value: str) -> None:
    override = f"{'.'.join(path)}={value}"
    try:
        recipe = load(PLAIN, "my.yaml", [override])
    except RecipeError:
        return
    canonical_json.dumps(recipe.model_dump(mode="json"))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_setting_every_leaf_by_itself_gives_the_same_recipe(data: st.DataObject) -> None:
    """Overrides say the same as the file: take some leaves out of it and set them instead."""
    raw = yaml.safe_load(PLAIN + "\nlimits: {files: 3}\nbad_input: {max_bad_rate: 0.5, policy: {nul: keep}}\n")
    leaves = list(_leaves(raw))
    chosen = data.draw(st.lists(st.sampled_from(leaves), unique_by=lambda leaf: leaf[0]))
    changed = copy.deepcopy(raw)
    for path, _ in chosen:
        _set(changed, path, "something else")
    overrides = [f"{'.'.join(map(str, path))}={value}" for path, value in chosen]
    assert load(yaml.safe_dump(changed), "x", overrides) == load(yaml.safe_dump(raw), "x")


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value if value != "*.jsonl" else "'*.jsonl'"


def _set(value: Any, path: tuple[Any, ...], new: object) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new
