"""Whole builds in this process, without Ray and without certifying the tokenizer anew every time."""

from collections.abc import Sequence
from pathlib import Path

from bamba_data.certificate import Certificate
from bamba_data.dataset import tokenizer_path
from bamba_data.fetch import Fetcher
from bamba_data.lock import load_tokenizer
from bamba_data.manifest import Manifest
from bamba_data.publish import Version
from bamba_data.store import open_store
from pipelines import plan as plans
from pipelines.build import Prepared, finish, frozen_lock, run_here
from pipelines.cli import load_recipe
from pipelines.plan import Job


def prepared(
    out: Path | str, certificate: Certificate, recipe: str = "demo", overrides: Sequence[str] = ()
) -> Prepared:
    """What `pipelines.build.prepare` makes, with a certificate that was earned before."""
    loaded, folder = load_recipe(recipe, list(overrides))
    store, fetcher = open_store(out), Fetcher()
    tokenizer = load_tokenizer(loaded, folder, fetcher)
    frozen = frozen_lock(loaded, folder, store, fetcher)
    store.put(tokenizer_path(tokenizer.sha256), tokenizer.data)
    job = Job(loaded, frozen.lock.sources, tokenizer.sha256, certificate.backend, str(out))
    plan = plans.make(loaded, frozen.lock, tokenizer.sha256)
    return Prepared(store, tokenizer, certificate, plan, frozen.digest, job, "build-of-tests", ())


def build(
    out: Path | str, certificate: Certificate, recipe: str = "demo", overrides: Sequence[str] = ()
) -> tuple[Version, Manifest]:
    """A dataset from a recipe, published."""
    ready = prepared(out, certificate, recipe, overrides)
    if faults := run_here(ready, Fetcher()):
        raise faults[0]
    return finish(ready)
