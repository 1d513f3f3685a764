"""Whatever a recipe holds, it is read as it is meant or refused by one line a fault, which names the file; never a
traceback, never for long."""

import copy
import json
import os
import string
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bamba_data import plain_yaml
from bamba_data.errors import RecipeError, UserError
from bamba_data.plain_yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse
from bamba_data.recipe import Recipe, load, load_as, load_file
from loader.text.spec import TextSource
from pipelines import cli
from trainer.config import Recipe as TrainingRecipe
from trainer.config import load_recipe as load_training

CORPUS = "{corpus: folder, name: a, base: texts, form: jsonl, files: [a.jsonl]}"
PLAIN = f"name: mine\ntokenizer: {{url: package:olmo.json}}\ncorpora:\n  - {CORPUS}\n"
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
MERGES = "\n".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}], k{n}: 1}}" for n in range(1, 12))

#: What is refused, with a piece of the line that says so.
ODD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "expected a mapping with name"),
    "a comment": ("# nothing", "expected a mapping with name"),
    "only a marker": ("---", "expected a mapping"),
    "a list": ("[1]", "expected a mapping"),
    "a number": ("5", "expected a mapping"),
    "a word": ("hello", "expected a mapping"),
    "a date": ("2026-11-28", "expected a mapping"),
    "null": ("~", "expected a mapping"),
    "two documents": (f"{PLAIN}---\n{PLAIN}", "second document"),
    "nothing but a tab": ("\t", "indent with spaces"),
    "indented by a tab": (PLAIN.replace("  - ", "\t- "), "indent with spaces"),
    "a tab before a key": (f"{PLAIN}shards:\n\tblock_tokens: 20\n", "indent with spaces"),
    "a brace that stays open": (f"{PLAIN}shards: {{", "not YAML"),
    "a quote that stays open": (f'{PLAIN}x: "', "not YAML"),
    "two colons": ("a: b: c", "not YAML: mapping values are not allowed"),
    "an at sign": (f"{PLAIN}x: @y", "not YAML"),
    "a percent sign": ("%", "not YAML"),
    "a NUL byte": (b"name: \0", "not YAML"),
    "a NUL escaped": (PLAIN.replace("texts", '"te\\0xts"'), "NUL character"),
    "a NUL in the name": (PLAIN.replace("mine", '"a\\0"'), "NUL character"),
    "a control character": (b"name: \x07", "not YAML"),
    "an escape character": (b"name: \x1b[31m", "not YAML"),
    "a lone high surrogate": (PLAIN.replace("texts", '"\\ud800"'), "lone surrogate"),
    "a lone low surrogate": (PLAIN.replace("texts", '"\\udc00"'), "lone surrogate"),
    "surrogates the wrong way round": (PLAIN.replace("texts", '"\\udc00\\ud800"'), "lone surrogate"),
    "a surrogate in a key": (f'{PLAIN}"\\ud800": 1', "lone surrogate"),
    "beyond Unicode": (PLAIN.replace("texts", '"\\UFFFFFFFF"'), "not YAML"),
    "an escape that is none": (PLAIN.replace("texts", '"\\q"'), "not YAML"),
    "not UTF-8": (b"name: caf\xe9", "save it as UTF-8"),
    "UTF-16": (PLAIN.encode("utf-16"), "save it as UTF-8"),
    "UTF-32": (PLAIN.encode("utf-32"), "save it as UTF-8"),
    "binary": (bytes(range(256)), "save it as UTF-8"),
    "cut inside a character": ("name: é".encode()[:-1], "save it as UTF-8"),
    "0x_": (f"{PLAIN}unit_bytes: 0x_", "begins as a number and is none"),
    "0x": (f"{PLAIN}unit_bytes: 0x", "begins as a number and is none"),
    "0b_": (f"{PLAIN}unit_bytes: 0b_", "begins as a number and is none"),
    "0b2": (f"{PLAIN}unit_bytes: 0b2", "begins as a number and is none"),
    "0o_": (f"{PLAIN}unit_bytes: 0o_", "begins as a number and is none"),
    "-0x_": (f"{PLAIN}unit_bytes: -0x_", "begins as a number and is none"),
    "010": (f"{PLAIN}unit_bytes: 010", "octal to some and decimal"),
    "08": (f"{PLAIN}unit_bytes: 08", "octal to some and decimal"),
    "0_": (f"{PLAIN}unit_bytes: 0_", "octal to some and decimal"),
    "2^63": (f"{PLAIN}unit_bytes: {2**63}", "must fit in 64 bits"),
    "-2^63 - 1": (f"{PLAIN}unit_bytes: {-(2**63) - 1}", "must fit in 64 bits"),
    "1000 digits": (f"{PLAIN}unit_bytes: 1{'0' * 1000}", "must fit in 64 bits"),
    "a million digits": (f"{PLAIN}unit_bytes: 1{'0' * 1_000_000}", "must fit in 64 bits"),
    "a million hex digits": (f"{PLAIN}unit_bytes: 0x{'f' * 1_000_000}", "must fit in 64 bits"),
    "a number as a key of 5000 digits": (f"{PLAIN}? 1{'0' * 5000}\n: x", "must fit in 64 bits"),
    "1:30": (f"{PLAIN}unit_bytes: 1:30", "unit_bytes: Input should be a valid integer (it is '1:30')"),
    "a float of a million digits": (f"{PLAIN}unit_bytes: 1.{'0' * 1_000_000}", "unit_bytes: Input should be a valid"),
    "1e999": (f"{PLAIN}network: {{retry_seconds: 1e999}}", "network.retry_seconds: Input should be a finite number"),
    "infinity": (f"{PLAIN}network: {{retry_seconds: .inf}}", "network.retry_seconds: Input should be a finite number"),
    "not a number": (f"{PLAIN}bad_input: {{max_bad_rate: .NaN}}", "bad_input.max_bad_rate: Input should be a finite"),
    "a date for a number": (
        f"{PLAIN}unit_bytes: 2026-11-28",
        "unit_bytes: Input should be a valid integer (it is '20",
    ),
    "a time": (f"{PLAIN}unit_bytes: 2026-11-28T10:00:00Z", "unit_bytes: Input should be a valid integer"),
    "the 45th of a month": (f"{PLAIN}unit_bytes: 2026-02-45", "unit_bytes: Input should be a valid integer"),
    "a tag of Python": (f"{PLAIN}unit_bytes: !!python/object/apply:os.getpid []", "could not determine a constructor"),
    "a tag of a set": (f"{PLAIN}shards: !!set {{a}}", "could not determine a constructor"),
    "a tag of binary": (f"{PLAIN}unit_bytes: !!binary aGk=", "could not determine a constructor"),
    "a tag of a timestamp": (f"{PLAIN}unit_bytes: !!timestamp 2026-11-28", "could not determine a constructor"),
    "a tag that does not fit": (f"{PLAIN}unit_bytes: !!int hello", "could not determine a constructor"),
    "a tag of ours": (f"{PLAIN}unit_bytes: !mine 5", "could not determine a constructor"),
    "an unknown alias": (f"{PLAIN}shards: *there", "*there has no &there before it"),
    "an anchor in itself": (f"{PLAIN}shards: &a [*a]", "&a holds itself"),
    "an anchor in its own mapping": (f"{PLAIN}shards: &a {{b: *a}}", "&a holds itself"),
    "a merge of itself": (f"{PLAIN}shards: &a {{<<: *a}}", "&a holds itself"),
    "a bomb of anchors": (f"a0: &a0 [1,1,1,1,1,1,1,1,1]\n{LAUGHS}\n{PLAIN}", f"more than {MAX_VALUES:,} values"),
    "a bomb of merges": (f"m0: &m0 {{a: 1}}\n{MERGES}\n{PLAIN}", f"more than {MAX_VALUES:,} values"),
    "a merge of a number": (f"{PLAIN}shards: {{<<: 5}}", "<<: takes a mapping or a list of mappings"),
    "a merge of numbers": (f"{PLAIN}shards: {{<<: [5]}}", "<<: takes a mapping or a list of mappings"),
    "a key twice": (f"{PLAIN}name: again", "key 'name' stands twice"),
    "a key twice below": (
        PLAIN.replace("form: jsonl", "form: jsonl, form: parquet"),
        "key 'form' stands twice",
    ),
    "20,000 keys": ("\n".join(f"k{n}: 1" for n in range(20_000)), "Extra inputs are not permitted"),
    "too many values": (f"{PLAIN}x: [{'1,' * MAX_VALUES}1]", f"more than {MAX_VALUES:,} values"),
    "a number as a key": (f"{PLAIN}7: seven", "7: Keys should be strings; quote it"),
    "a float as a key": (f"{PLAIN}1.5: x", "1.5: Keys should be strings"),
    "null as a key": (f"{PLAIN}~: x", "null: Keys should be strings"),
    "an empty key": (f"{PLAIN}: x", "not YAML"),
    "yes as a key": (f"{PLAIN}yes: x", "true: Keys should be strings"),
    "a list as a key": (f"{PLAIN}? [a]\n: b", "a key is a list"),
    "a mapping as a key": (f"{PLAIN}? {{a: b}}\n: c", "a key is a mapping"),
    "an alias of a list as a key": (f"{PLAIN}x: &x [1]\n*x : 1", "Keys should be strings"),
    "lists in lists": (f"{PLAIN}x: {'[' * 5000}", f"nested deeper than {MAX_DEPTH}"),
    "closed lists in lists": (f"{PLAIN}x: {'[' * 5000}{']' * 5000}", f"nested deeper than {MAX_DEPTH}"),
    "mappings in mappings": (f"{PLAIN}x: {'{a: ' * 5000}", f"nested deeper than {MAX_DEPTH}"),
    "dashes in dashes": (f"{PLAIN}x:\n  {'- ' * 5000}1", f"nested deeper than {MAX_DEPTH}"),
    "a huge file": (f"{PLAIN}# {'x' * MAX_BYTES}", "is it the right file?"),
    "a huge value": (PLAIN.replace("mine", "m" * 1_000_000), "name: String should match pattern"),
    "JSON cut short": (json.dumps({"name": "x"})[:-1], "not YAML"),
    "no number but yes": (f"{PLAIN}unit_bytes: yes", "unit_bytes: Input should be a valid integer (it is True)"),
    "a text for a list": (PLAIN.replace("[a.jsonl]", "a.jsonl"), "files: Input should be a valid list"),
    "a number among names": (PLAIN.replace("[a.jsonl]", "[1]"), "files.0: Input should be a valid string"),
    "no corpora": (f"{PLAIN}".replace(f"\n  - {CORPUS}", " []"), "corpora: List should have at least 1 item"),
    "null for a corpus": (PLAIN.replace(CORPUS, "~"), "corpora.0: "),
    "an unknown corpus": (PLAIN.replace("folder", "web"), "corpora.0: "),
    "a corpus that is a list": (PLAIN.replace("folder", "[1]"), "corpora.0"),
    "a name of a path": (PLAIN.replace("mine", "../mine"), "name: String should match pattern"),
    "a name with a line break": (PLAIN.replace("mine", '"mine\\n"'), "name: String should match pattern"),
    "limits of nothing": (f"{PLAIN}limits: {{files: 0}}", "limits.files: "),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_recipe_is_refused_by_lines_that_name_the_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = ODD[name]
    path = tmp_path / "odd.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    began = time.process_time()
    assert cli.run(cli.app, ["lock", str(path), "--out", str(tmp_path / "out")]) == UserError.exit_code
    assert time.process_time() - began < 30
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert expected in said
    assert "Traceback" not in said
    assert all(len(line) < 1000 for line in said.splitlines())
    assert not (tmp_path / "out").exists()


#: Both kinds of recipe are read by one function: what takes it seconds once is enough for `make test`.
OF_TRAINING = [
    pytest.param(name, marks=pytest.mark.costly) if name in ("too many values", "20,000 keys") else name
    for name in ODD
    if isinstance(ODD[name][0], str) and "Input should" not in name
]


@pytest.mark.parametrize("name", OF_TRAINING)
def test_the_same_holds_for_a_training_recipe(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    text = ODD[name][0]
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError, match=f"^{path}: "):
        load_training(str(path))


SET = {
    "unit_bytes": "expected a.b=value",
    "=5": "expected a.b=value",
    "unit_bytes=0x_": "--set unit_bytes: 0x_ begins as a number",
    "unit_bytes=1e": "unit_bytes: Input should be a valid integer (it is '1e')",
    f"unit_bytes={10**30}": "must fit in 64 bits",
    "name=\udcff": "--set name: not YAML",
    'name="\\ud800"': "lone surrogate",
    'name="a\\0"': "NUL",
    "name=[": "--set name: not YAML",
    "name=&a [*a]": "holds itself",
    "shards={block_tokens: 20, block_tokens: 30}": "stands twice",
    "corpora.7.name=x": "'7' is no index into a list of 1",
    "corpora.²=x": "'²' is no index",
    f"corpora.{'9' * 5000}=x": "is no index",
    "name.x=5": "would stand below a plain value",
    ".".join("a" * 5000) + "=1": "nested deeper than",
    "shards=2026-11-28": "shards: ",
}


@pytest.mark.parametrize("override", SET, ids=lambda override: ascii(override)[:30])
def test_an_odd_override_is_refused_by_a_line(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(PLAIN, "my.yaml", [override])
    assert SET[override] in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing", "long name", "NUL in the name"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / {"long name": f"{'x' * 300}.yaml", "NUL in the name": "a\0.yaml"}.get(kind, "a.yaml")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_file(path)
    assert cli.run(cli.app, ["lock", str(path), "--out", str(tmp_path / "out")]) == UserError.exit_code


def test_what_yaml_can_say_is_read_as_it_is_meant() -> None:
    text = """
    base: &base {a: 1, b: 2}
    merged: {<<: *base, b: 3}
    first: {<<: [{a: 5}, *base]}
    list: &l [1, 0x1F, 0o17, 0b11, 1_000, -3]
    again: *l
    floats: [1.5, .5, 1., 1e-6, 1E3, -.inf]
    words: [yes, No, TRUE, ~, null, on]
    text: [2026-11-28, 1:30, "5", !!str 5, 1.2.3, "", 0.0.0.0]
    tagged: [!!int 5, !!float 5, !!bool no]
    "smile": "\\ud83d\\ude00"
    """
    found = parse(text, "x")
    assert found["merged"] == {"a": 1, "b": 3}
    assert found["first"] == {"a": 5, "b": 2}
    assert found["again"] == found["list"] == [1, 31, 15, 3, 1000, -3]
    assert found["again"] is not found["list"]
    assert found["floats"] == [1.5, 0.5, 1.0, 1e-6, 1000.0, float("-inf")]
    assert found["words"] == [True, False, True, None, None, True]
    assert found["text"] == ["2026-11-28", "1:30", "5", "5", "1.2.3", "", "0.0.0.0"]
    assert found["tagged"] == [5, 5.0, False]
    assert found["smile"] == "😀"


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert load_file(tmp_path / "a.yaml") == load(PLAIN, "x")


def test_what_is_set_on_one_alias_is_not_set_on_the_other() -> None:
    text = PLAIN + "  - &b {corpus: folder, name: b, base: texts, form: jsonl, files: &f [a.jsonl]}\n"
    text += "  - {<<: *b, name: c}\n"
    recipe = load(text, "x", ["corpora.2.files.0=other.jsonl"])
    assert [source.location.files for source in recipe.sources()] == [["a.jsonl"], ["a.jsonl"], ["other.jsonl"]]


def test_many_files_are_read_in_seconds() -> None:
    names = "".join(f"      - part/{n:06d}.jsonl.gz\n" for n in range(20_000))
    text = PLAIN.replace(CORPUS, f"corpus: folder\n    name: a\n    base: x\n    form: jsonl\n    files:\n{names}")
    began = time.process_time()
    assert len(load(text, "x").sources()[0].location.files) == 20_000
    assert time.process_time() - began < 30


def test_a_text_source_says_what_it_does_not_take() -> None:
    with pytest.raises(RecipeError, match="lone surrogate"):
        TextSource("web", "/there/\ud800.parquet", "package:olmo.json").recipe  # noqa: B018
    with pytest.raises(RecipeError, match="64 bits"):
        TextSource("web", "/there/x.parquet", "package:olmo.json", block_tokens=2**70).recipe  # noqa: B018
    assert TextSource("web", "/there/😀.parquet", "package:olmo.json").recipe.sources()[0].location.files == [
        "😀.parquet"
    ]


PIECES = st.sampled_from(
    [
        *[
            "a",
            "b: ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            ": ",
            "\n",
            "\n  ",
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "!x ",
            "'",
            '"',
        ],
        *[
            "0x_",
            "1e9",
            ".inf",
            "~",
            "2026-11-28",
            "\\ud800",
            "\t",
            "#",
            "|",
            ">",
            "%",
            "---\n",
            "? ",
            "é",
            "\0",
            "𝒳",
            "\ufeff",
        ],
        *[
            "name: ",
            "corpora: ",
            "tokenizer: ",
            "{url: x}",
            CORPUS,
            "10" * 30,
            "_",
            "=",
            "`",
            "@",
            "\x85",
            "\u2028",
            "yes",
        ],
    ]
)


@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=40) | st.text(string.printable, max_size=60))
@example("? &a")
@example("*a : b")
@example("&a : b")
@example("- ? <<\n  : <<")
@settings(max_examples=700, deadline=None)
def test_no_text_leaves_a_traceback(text: str) -> None:
    for kind in (Recipe, TrainingRecipe):
        try:
            load_as(kind, text, "my.yaml", [f"x.y={text}"])
        except RecipeError as refused:
            assert str(refused).startswith(("my.yaml: ", "--set x.y"))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_every_json_value_without_nul_is_read_as_json_reads_it(value: Any) -> None:
    text = json.dumps(value)
    if "\\u0000" in text:
        return
    assert parse(text, "x") == value


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_what_a_yaml_library_writes_is_read_back(value: Any) -> None:
    text = yaml.safe_dump(value, default_style='"')  # unquoted it takes 1e6 for text
    if "\\0" in text:
        return
    assert parse(text, "x") == value


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_value_at_any_place_of_a_recipe_leaves_a_traceback(data: st.DataObject) -> None:
    raw = yaml.safe_load(PLAIN + "bad_input: {policy: {nul: keep}}\nshards: {block_tokens: 100}\n")
    places = list(_places(raw))
    changed = copy.deepcopy(raw)
    place = data.draw(st.sampled_from(places))
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = data.draw(VALUES | st.just(date(2026, 11, 28)))
    try:
        Recipe.model_validate(load(yaml.safe_dump(changed), "my.yaml").model_dump())
    except RecipeError as refused:
        assert str(refused).startswith("my.yaml: ")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))


def test_the_list_is_long_enough() -> None:
    assert len(ODD) >= 80
    assert plain_yaml.MAX_VALUES >= 100_000
