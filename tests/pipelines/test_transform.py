"""`transform` in a recipe: a function of the user's own makes another text of a document's, or drops it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bamba_data.errors import BudgetExceeded, MachineFault, RecipeError, UserError, WrongForm
from bamba_data.filtering.transform_source import beside
from bamba_data.format.dataset import open_dataset
from bamba_data.format.manifest import Manifest
from bamba_data.inspect.verify import verify
from bamba_data.locking.lock import request_key
from bamba_data.recipe import load
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.mirror_file import request_of, unfiltered
from pipelines.dataset_build.staged_records import Staging
from pipelines.observe.runs import Run
from pipelines.ray_jobs.preflight.inputs import inputs, transforms
from pipelines.ray_jobs.submit import Submission
from tests.building import build, prepared
from tests.corpora import TOKENIZER, records, write_jsonl, write_parquet
from tests.derive.content import stored
from tests.running import bamba

ROWS = [{**row, "n": n, "dump": "x"} for n, row in enumerate(records(60, text_chars=300))]
CLEAN = '''
"""Short documents go, the others are said aloud."""

def clean(text, columns):
    if columns["n"] % 3 == 0:
        return None
    return f"[{columns['n']}] " + text.upper()
'''


def recipe(
    folder: Path,
    source: str | None = CLEAN,
    said: str = "{function: 'clean:clean', columns: [n]}",
    form: str = "jsonl",
    where: str = "",
    extra: str = "",
) -> str:
    if form == "jsonl":
        write_jsonl(folder / "inputs" / "a.json.gz", ROWS)
    else:
        write_parquet(folder / "inputs" / "a.parquet", ROWS)
    if source is not None:
        (folder / "clean.py").write_text(source, encoding="utf-8")
    path = folder / "transformed.yaml"
    path.write_text(
        f"""
name: transformed
tokenizer: {{url: package:{TOKENIZER.name}}}
corpora:
  - {{corpus: folder, name: web, base: inputs, form: {form}, files: ["a.*"], transform: {said}{where}}}
shards: {{block_tokens: 700, blocks_per_shard: 2}}
{extra}
""",
        encoding="utf-8",
    )
    return str(path)


def made(folder: Path, certificate: Certificate, path: str, out: str = "out", set: Sequence[str] = ()) -> Manifest:
    return build(folder / out, certificate, path, set)[1]


def texts(folder: Path, tokenizer: Tokenizer, out: str = "out") -> dict[str, str]:
    return {name: tokenizer.decode(list(ids)) for _, name, ids in stored(folder / out)}


def test_the_texts_that_it_gives_are_tokenized_and_none_drops_by_a_reason(
    tmp_path: Path, certificate: Certificate, tokenizer: Tokenizer
) -> None:
    manifest = made(tmp_path, certificate, recipe(tmp_path))
    assert texts(tmp_path, tokenizer) == {
        row["id"]: f"[{row['n']}] " + row["text"].upper() for row in ROWS if row["n"] % 3
    }
    assert manifest.totals.dropped == {"transform_none": 20} and manifest.totals.balanced
    assert verify(str(tmp_path / "out"), full=True).faults == []
    assert made(tmp_path, certificate, recipe(tmp_path), "again").identity == manifest.identity


def test_it_is_asked_after_where_of_rows_of_parquet_too(
    tmp_path: Path, certificate: Certificate, tokenizer: Tokenizer
) -> None:
    source = "def clean(text, columns):\n    return columns['dump'] + text if columns == {'dump': 'x'} else None\n"
    path = recipe(
        tmp_path, source, "{function: 'clean:clean', columns: [dump]}", "parquet", ", where: \"id <> 'doc-1'\""
    )
    manifest = made(tmp_path, certificate, path)
    assert manifest.totals.dropped == {"where_false": 1}
    assert texts(tmp_path, tokenizer) == {row["id"]: "x" + row["text"] for row in ROWS if row["id"] != "doc-1"}


def test_the_source_and_the_versions_of_packages_stand_in_the_manifest_and_the_lock(
    tmp_path: Path, certificate: Certificate
) -> None:
    source = "import numpy\nimport re\n\ndef clean(text, columns):\n    return re.sub('a', 'b', text)\n"
    path = recipe(tmp_path, source, "{function: 'clean:clean', packages: [numpy, python]}")
    made(tmp_path, certificate, path)
    dataset = open_dataset(tmp_path / "out")
    rule = dataset.manifest.recipe["corpora"][0]["transform"]
    assert len(rule["sha256"]) == 64 and rule["packages"][0] == f"numpy=={np.__version__}"
    assert rule["packages"][1].startswith("python==3")
    assert json.loads(dataset.lock_json())["sources"]["web"]["transform"] == rule


def test_another_source_and_another_version_are_another_unit(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bamba_data.filtering import transform_source

    numpy_too = "{function: 'clean:clean', columns: [n], packages: [numpy]}"
    plans = [prepared(tmp_path / "out", certificate, recipe(tmp_path, said=numpy_too))]
    plans.append(prepared(tmp_path / "out", certificate, recipe(tmp_path, CLEAN + "\n# changed\n", numpy_too)))
    monkeypatch.setattr(transform_source, "installed", lambda name: "9.9.9")
    plans.append(prepared(tmp_path / "out", certificate, recipe(tmp_path, CLEAN, numpy_too)))
    assert len({plan.plan.units[0].key for plan in plans}) == len({plan.lock_digest for plan in plans}) == 3


def test_a_changed_source_is_told_with_both_sides(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.dataset_build import driver

    monkeypatch.setattr(driver, "choose", lambda tokenizer, asked: (None, certificate, ()))
    from bamba_data.recipe import load_file
    from bamba_data.storage.fetch import Fetcher

    def remarks() -> tuple[str, ...]:
        return driver.prepare(
            load_file(tmp_path / "transformed.yaml"), tmp_path, str(tmp_path / "out"), Fetcher()
        ).remarks

    recipe(tmp_path)
    assert remarks() == ()
    recipe(tmp_path, CLEAN + "\n# changed\n")
    (said,) = remarks()
    assert "transform.sha256" in said and "->" in said


def test_a_pinned_source_that_is_another_is_refused_with_both_sides(tmp_path: Path, certificate: Certificate) -> None:
    path = recipe(tmp_path, said=f"{{function: 'clean:clean', columns: [n], sha256: {'ab' * 32}}}")
    with pytest.raises(RecipeError, match=r"has sha256 [0-9a-f]{64}, the recipe says abab"):
        prepared(tmp_path / "out", certificate, path)
    path = recipe(tmp_path, said="{function: 'clean:clean', columns: [n], packages: ['numpy==1.0']}")
    with pytest.raises(RecipeError, match=rf"numpy is {np.__version__} here, the recipe says 1\.0"):
        prepared(tmp_path / "out", certificate, path)


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        (
            None,
            "nowhere_at_all:clean",
            r"no module nowhere_at_all, neither at .*nowhere_at_all.py nor on Python's path",
        ),
        (CLEAN, "clean:other", r"defines no function other \(its functions: clean\)"),
        ("async def clean(text, columns):\n    return text\n", "clean:clean", "defines no function clean"),
        ("class clean:\n    pass\n", "clean:clean", "defines no function clean"),
        ("def clean(text, columns:\n", "clean:clean", "is no Python"),
        ("def clean(text, columns): return text\nclean = 3\n", "clean:clean", "has no function clean"),
        ("1 / 0\ndef clean(text, columns): return text\n", "clean:clean", "cannot be imported .ZeroDivisionError"),
        ("import helpers\ndef clean(t, c): return t\n", "clean:clean", "imports helpers.* the source is one file"),
        ("from . import helpers\ndef clean(t, c): return t\n", "clean:clean", "imports clean"),
        ("import numpy\ndef clean(t, c): return t\n", "clean:clean", r"imports numpy.*say packages: \[numpy\]"),
        (None, "json:loads", "json is a package, not one file"),
        (None, "math:sqrt", "math has no source file"),
        (None, "itertools:chain", "itertools has no source file"),
    ],
)
def test_what_cannot_be_had_or_is_not_one_file_is_refused_with_the_lock(
    tmp_path: Path, certificate: Certificate, source: str | None, function: str, message: str
) -> None:
    path = recipe(tmp_path, source, f"{{function: '{function}'}}")
    with pytest.raises(RecipeError, match=message):
        prepared(tmp_path / "out", certificate, path)
    assert not list((tmp_path / "out").glob("_bamba/locks/*"))


def test_what_it_raises_is_a_dead_letter_of_its_document(tmp_path: Path, certificate: Certificate) -> None:
    source = CLEAN.replace("% 3 == 0:\n        return None", "% 30 == 7:\n        raise KeyError(object())")
    path = recipe(tmp_path, source)
    with pytest.raises(BudgetExceeded, match="transform_error 2"):
        made(tmp_path, certificate, path)
    manifest = made(tmp_path, certificate, path, set=["bad_input.max_bad_rate=0.1"])
    assert manifest.totals.dead_lettered == {"transform_error": 2} and manifest.totals.kept == 58
    letters = open_dataset(tmp_path / "out").dead_letters["path"]
    files = [pq.read_table(tmp_path / "out" / path, partitioning=None) for path in letters]
    first, second = (row for file in files for row in file.to_pylist())
    assert first["detail"] == "KeyError: <object object> (line 6 of clean.py)" and second["row"] == 37
    assert json.loads(first["raw"])["id"] == "doc-7"
    dropped = made(tmp_path, certificate, path, "lenient", ["bad_input.policy={transform_error: drop}"])
    assert dropped.totals.dropped == {"transform_error": 2}


@pytest.mark.parametrize(("answer", "why"), [("7", "it gave int"), ("b'x'", "it gave bytes"), ("chr(0xd800)", "lone")])
def test_what_is_no_text_is_a_dead_letter(tmp_path: Path, certificate: Certificate, answer: str, why: str) -> None:
    path = recipe(tmp_path, f"def clean(text, columns):\n    return {answer}\n")
    with pytest.raises(BudgetExceeded, match=f"transform_error.*{why}"):
        made(tmp_path, certificate, path)


@pytest.mark.parametrize(
    "body",
    [
        "import random\n\ndef clean(text, columns):\n    return text + str(random.random())\n",
        "seen = set()\n\ndef clean(text, columns):\n    return None if text in seen else seen.add(text) or text\n",
    ],
)
def test_a_function_that_does_not_depend_on_its_arguments_alone_ends_the_build(
    tmp_path: Path, certificate: Certificate, body: str
) -> None:
    with pytest.raises(UserError, match="gave two answers for one document"):
        made(tmp_path, certificate, recipe(tmp_path, body))


def test_what_it_does_to_its_columns_is_nobody_elses(tmp_path: Path, certificate: Certificate) -> None:
    source = """
def clean(text, columns):
    columns["metadata"]["n"] += 1
    return text + str(columns["metadata"]["n"])
"""
    assert made(tmp_path, certificate, recipe(tmp_path, source, "{function: 'clean:clean', columns: [metadata]}"))


def test_a_column_that_the_corpus_has_not_is_refused(tmp_path: Path, certificate: Certificate) -> None:
    with pytest.raises(WrongForm, match=r"'number'.*metadata.n, n"):
        made(tmp_path, certificate, recipe(tmp_path, said="{function: 'clean:clean', columns: [number]}"))


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, certificate: Certificate) -> None:
    path = recipe(tmp_path)
    whole = made(tmp_path, certificate, path)
    (record,) = (tmp_path / "out").glob("_bamba/units/web/*/unit.json")
    staging, key = Staging(open_store(tmp_path / "out")), record.parent.name
    finished = staging.unit("web", key)
    assert finished is not None and len(finished.parts) > 2
    record.unlink()
    for part in finished.parts[:2]:
        staging.save_part("web", key, part)
    again = made(tmp_path, certificate, path)
    assert (again.identity, again.totals) == (whole.identity, whole.totals)


def test_a_machine_with_another_version_of_a_package_says_both(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bamba_data.filtering import transform_source
    from bamba_data.storage.fetch import Fetcher
    from pipelines.dataset_build.driver import run_here

    ready = prepared(
        tmp_path / "out",
        certificate,
        recipe(tmp_path, said="{function: 'clean:clean', columns: [n], packages: [numpy]}"),
    )
    monkeypatch.setattr(transform_source, "installed", lambda name: None)
    (fault,) = run_here(ready, Fetcher())
    assert isinstance(fault, MachineFault)
    assert f"numpy is not installed here, {np.__version__} in the lock" in str(fault)


def test_a_rule_that_contradicts_itself_is_refused() -> None:
    for said, why in [
        ("{function: clean}", "transform.function"),
        ("{function: 'a:b', columns: [n, n]}", "stand twice"),
        ("{function: 'a:b', packages: [x, 'x==1']}", "stand twice"),
        ("{function: 'a:b', colums: [n]}", "did you mean corpora.0.transform.columns"),
    ]:
        corpus = f"{{corpus: folder, name: a, base: b, form: jsonl, files: [c], transform: {said}}}"
        text = f"name: a\ntokenizer: {{url: x}}\ncorpora:\n  - {corpus}\n"
        with pytest.raises(RecipeError, match=why):
            load(text, "recipe")
    with pytest.raises(RecipeError, match="'transform_none' is what `transform` is for"):
        load(
            "name: a\ntokenizer: {url: x}\ncorpora: []\nbad_input: {policy: {transform_none: dead_letter}}\n", "recipe"
        )


@pytest.mark.costly
@pytest.mark.ray
def test_a_build_on_ray_runs_the_module_beside_the_recipe(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Workers have not the folder of the recipe on their path: the source travels with the units."""
    path = recipe(tmp_path, extra="unit_bytes: 1")
    done = bamba("build", path, "--out", tmp_path / "out", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert texts(tmp_path, tokenizer) == {
        row["id"]: f"[{row['n']}] " + row["text"].upper() for row in ROWS if row["n"] % 3
    }
    write_jsonl(tmp_path / "inputs" / "a.more.gz", [{**row, "id": f"more-{row['n']}"} for row in ROWS[:9]])
    done = bamba("append", path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert open_dataset(tmp_path / "out").manifest.totals.dropped == {"transform_none": 23}
    (tmp_path / "clean.py").write_text(CLEAN + "\n# changed\n")
    write_jsonl(tmp_path / "inputs" / "a.third.gz", ROWS[:3])
    done = bamba("append", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    said = " ".join((done.stdout + done.stderr).split())
    assert said.count("clean:clean, sha256 ") >= 2 and "give the new inputs a source of another name" in said


def test_a_submission_brings_the_source_that_lies_beside_the_recipe(tmp_path: Path) -> None:
    file = Path(recipe(tmp_path, said="{function: 'deep.clean:clean', columns: [n]}"))
    (tmp_path / "deep").mkdir()
    (tmp_path / "clean.py").rename(tmp_path / "deep" / "clean.py")
    loaded, folder = load_recipe(str(file), None)
    what = Submission(Run.of("build", loaded, None, False), "s3://b/x", (), file, None, tuple(beside(loaded, folder)))
    with what.runtime_env("one") as env:
        shipped = Path(env["working_dir"])
        assert {str(one.relative_to(shipped)) for one in shipped.rglob("*") if one.is_file()} == {
            "transformed.yaml",
            "deep/clean.py",
        }
    (tmp_path / "deep" / "clean.py").write_text("URL = 'https://me:secret@host/'\n")
    with pytest.raises(UserError, match="credentials"):
        Submission(what.run, what.out, (), file, None, what.code)


def test_a_mirror_of_raw_files_serves_whatever_is_made_of_them(tmp_path: Path, certificate: Certificate) -> None:
    plain = load_recipe(recipe(tmp_path, said="null"), None)[0]
    changed, folder = load_recipe(recipe(tmp_path), None)
    assert request_of(plain, folder) == request_of(changed, folder) == request_key(plain, folder)
    assert unfiltered(changed).corpora[0].transform is None


def test_a_preflight_says_that_a_function_or_a_package_is_missing(tmp_path: Path, certificate: Certificate) -> None:
    loaded, folder = load_recipe(
        recipe(tmp_path, said="{function: 'clean:clean', columns: [n], packages: [numpy]}"), None
    )
    (finding,), exact = transforms(loaded, folder)
    assert finding.verdict == "ok" and "clean:clean" in finding.detail
    found = {one.check: one for one in inputs(exact, folder, set())}
    assert found["packages of clean:clean"].detail == f"numpy=={np.__version__}"
    (tmp_path / "clean.py").unlink()
    (finding,), _ = transforms(loaded, folder)
    assert finding.is_missing and "no module clean" in finding.detail
