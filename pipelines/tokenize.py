"""The main job: a recipe in, a published dataset out, its units run by Ray.

    ray job submit --address URL -- python -m pipelines.tokenize RECIPE --out URL
    bamba-data build RECIPE --out URL                     the same, on a Ray that it starts itself

Killed at any time, the same command goes on where it was. Exit codes: 0 complete and verified, 2 bad recipe or
arguments, 3 error budget exceeded, 4 incomplete but resumable, 5 integrity failure.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bamba_data.errors import IntegrityError
from bamba_data.manifest import Manifest
from bamba_data.publish import Version
from bamba_data.store import Store
from bamba_data.sweep import LEASES
from bamba_data.verify import verify
from pipelines import worker
from pipelines.assemble import UnitsLost
from pipelines.build import Prepared, finish
from pipelines.cluster import Failed, Fault, Options, crew
from pipelines.plan import Unit
from pipelines.progress import Display

LEASE_SECONDS = 60.0
ROUNDS = 3  # of units whose finished work turns out to be damaged


def build(prepared: Prepared, options: Options, display: Display) -> tuple[Version, Manifest]:
    """Run the remaining units on Ray, then publish and verify (without bodies). Raises Failed, or as `finish`."""
    with lease(prepared.store, prepared.build):
        version, manifest = _finished(prepared, options, display)
    found = verify(prepared.store.url, version.number)
    if found.faults:
        raise IntegrityError("; ".join(map(str, found.faults[:5])))
    return version, manifest


def _finished(prepared: Prepared, options: Options, display: Display) -> tuple[Version, Manifest]:
    """Run what remains and publish; and again, should records of finished units turn out to be damaged."""
    for left in reversed(range(ROUNDS)):
        if remaining := prepared.remaining():
            faults = _run(prepared, remaining, options, display)
            if faults:
                raise Failed(faults)
        try:
            return finish(prepared)
        except UnitsLost as lost:
            if not left:
                raise
            sys.stderr.write(f"{lost.summary}; they are made anew now\n")
    raise AssertionError


def _run(prepared: Prepared, remaining: list[Unit], options: Options, display: Display) -> list[Fault]:
    plan = prepared.plan
    left = sum(unit.size_bytes for unit in remaining)
    total = {
        "units": len(plan.units),
        "units_done": len(plan.units) - len(remaining),
        "input_bytes": plan.input_bytes,
        "input_bytes_done": plan.input_bytes - left,
    }
    with crew(options, plan.recipe.network) as hands, display:
        import ray

        job = ray.put(prepared.job)
        run_unit = ray.remote(max_retries=0)(worker.run_unit)

        def submit(unit: Unit) -> Any:
            # A unit that is staged first leaves its core idle meanwhile: two share one.
            staged = unit.is_remote and plan.lock.sources[unit.source].form == "parquet"
            options = run_unit.options(num_cpus=0.5 if staged else 1)
            return options.remote(unit, job, hands.budget, hands.progress)

        return hands.run(remaining, submit, display, total, options.fail_fast)


@contextmanager
def lease(store: Store, build: str) -> Iterator[None]:
    """While a build runs it touches an object once a minute, so that a sweep leaves its staged files alone."""
    path = f"{LEASES}/{build}.json"
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(LEASE_SECONDS):
            store.put(path, b"{}\n")

    store.put(path, b"{}\n")
    thread = threading.Thread(target=touch, daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        store.delete(path)


if __name__ == "__main__":
    from pipelines.cli import main

    main(["build", *sys.argv[1:]])
