"""Whole builds in this process, without Ray and without certifying the tokenizer anew every time."""

import functools
from collections.abc import Sequence
from pathlib import Path

from bamba_data.format.layout import tokenizer_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version
from bamba_data.locking.lock import load_tokenizer
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.cli.options import load_recipe
from pipelines.dataset_build import plan as plans
from pipelines.dataset_build.driver import Prepared, finish, run_here
from pipelines.dataset_build.frozen_lock import frozen_lock
from pipelines.dataset_build.plan import Job
from pipelines.dataset_build.reuse import taken_over
from tests.corpora import TOKENIZER, lines, records, write_jsonl, write_parquet


def prepared(
    out: Path | str, certificate: Certificate, recipe: str = "demo", overrides: Sequence[str] = ()
) -> Prepared:
    """What `pipelines.dataset_build.driver.prepare` makes, with a certificate that was earned before."""
    loaded, folder = load_recipe(recipe, list(overrides))
    store, fetcher = open_store(out), Fetcher()
    tokenizer = _loaded_once(load_tokenizer(loaded, folder, fetcher))
    frozen = frozen_lock(loaded, folder, store, fetcher)
    store.put(tokenizer_path(tokenizer.sha256), tokenizer.data)
    job = Job(loaded, frozen.lock.sources, tokenizer.sha256, certificate, str(out), frozen.code)
    plan, _ = taken_over(plans.make(frozen.recipe, frozen.lock, tokenizer.sha256), store)
    return Prepared(store, tokenizer, certificate, plan, frozen.digest, job, "build-of-tests", ())


@functools.cache
def _loaded_once(tokenizer: Tokenizer) -> Tokenizer:
    """The first one that is equal: to load its file takes longer than to build a tiny dataset."""
    return tokenizer


def build(
    out: Path | str, certificate: Certificate, recipe: str = "demo", overrides: Sequence[str] = ()
) -> tuple[Version, Manifest]:
    """A dataset from a recipe, published."""
    ready = prepared(out, certificate, recipe, overrides)
    if faults := run_here(ready, Fetcher()):
        raise faults[0]
    return finish(ready)


def tiny_inputs(folder: Path) -> Path:
    """The recipe of a dataset of a few kilobytes that has a bit of everything: two sources in two forms, several
    units, shards and blocks, dropped and dead-lettered records, a note."""
    for number in range(3):
        good = records(14, 14 * number, text_chars=700 + 90 * number)
        bad = b'{"id": "bad"}\nnot json\n{"id": "empty", "text": ""}\n' if number == 1 else b""
        write_jsonl(folder / "inputs" / f"{number}.json.gz", lines(good[:9]) + bad + lines(good[9:]))
    write_parquet(folder / "inputs" / "more.parquet", records(20, 100, text_chars=900))
    recipe = folder / "tiny.yaml"
    recipe.write_text(
        f"""
name: tiny
tokenizer: {{url: package:{TOKENIZER.name}}}
corpora:
  - {{corpus: folder, name: lines, base: inputs, form: jsonl, files: ["*.json.gz"], license: CC0-1.0}}
  - {{corpus: folder, name: rows, base: inputs, form: parquet, files: ["*.parquet"], attribution: "[b]us[/b]"}}
shards: {{block_tokens: 700, blocks_per_shard: 2}}
bad_input: {{max_bad_rate: 0.5}}
unit_bytes: 1
""",
        encoding="utf-8",
    )
    return recipe
