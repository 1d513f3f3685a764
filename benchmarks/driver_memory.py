"""How much memory and time the driver takes at a plan of 100,000 units: lock, plan, drive, assemble.

    python -m benchmarks.driver_memory [--units 100000] [--tasks 2000]

Real code on made-up facts: a lock of so many files, the records that so many finished units would leave (one shard of
20 blocks each), and real Ray tasks that do nothing. Prints the peak resident size after each step.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bamba_data import canonical_json
from bamba_data.document import Ledger
from bamba_data.format.holdout_candidates import Candidate
from bamba_data.format.shard import Block, Footer
from bamba_data.format.unit_records import MadeBy, Part, Place, ReadInput, Sampled, StagedShard, UnitRecord
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import load
from bamba_data.resources import FETCH_BYTES
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer
from benchmarks.measure import machine
from pipelines.dataset_build import plan as plans
from pipelines.dataset_build.assemble import assemble
from pipelines.dataset_build.plan import Plan, Unit
from pipelines.dataset_build.staged_records import Staging
from pipelines.observe.counters import Counters
from pipelines.observe.display import Display
from pipelines.ray_jobs.executor import Options
from pipelines.ray_jobs.session import task_runner

TOKENIZER = Path(__file__).parent.parent / "bamba_data" / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
RECIPE = """
name: simulated
tokenizer: {url: package:allenai_gpt-neox-olmo-dolma-v1_5.json}
corpora: [{corpus: folder, name: x, base: /data, form: jsonl, files: ["*.json.gz"]}]
unit_bytes: 1
"""


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    status = Path("/proc/self/status").read_text()
    peak, now = (int(re.findall(rf"{key}:\s+(\d+) kB", status)[0]) / 1024 for key in ("VmHWM", "VmRSS"))
    print(f"{name:28s} {time.perf_counter() - began:8.1f} s   peak {peak:7.0f} MiB   now {now:7.0f} MiB", flush=True)


MADE_BY = MadeBy({"pyarrow": "0"}, Certificate("gigatoken", "0", "0", "0" * 64, 0, 0, True))


def record(unit: Unit) -> UnitRecord:
    digest = f"{unit.number:032x}"
    blocks = [Block(256, 262_144, 1000 * n, 352_000, digest, digest) for n in range(20)]
    candidates = [Candidate(n % 20, n, 1000, 12345678901234567 + n) for n in range(26)]
    shard = StagedShard(
        f"dataset=x/{unit.number:05d}-000-{digest[:16]}.parquet",
        digest * 2,
        7_000_000,
        5120,
        5_242_880,
        blocks,
        candidates,
        Footer(3000, digest),
    )
    ledger = Ledger(read=5120, kept=5120, tokens=5_242_880, text_bytes=22_000_000)
    proof = ReadInput(0, digest * 2, 8_000_000, True)
    return UnitRecord(
        unit.source,
        unit.key,
        [Part(0, Place(1, 0, ""), "gigatoken", shard, None, {0: ledger}, [proof], Sampled(5, 5000), MADE_BY)],
    )


def drive(plan: Plan, tasks: int) -> None:
    """`tasks` of the plan's units as Ray tasks that do nothing."""
    units = plan.starting_order()[:tasks]
    planned = Counters(input_bytes=1, units=len(units))
    with task_runner(Options(workers=2), plan.recipe.network, FETCH_BYTES) as runner:
        task = runner.task(nothing, FETCH_BYTES)

        def submit(unit: Unit, where: Mapping[str, Any], progress: Any) -> Any:
            return task.options(num_cpus=1, **where).remote(unit, progress)

        assert not runner.run(units, submit, Display(), planned, Counters())


def nothing(unit: Unit, progress: Any) -> Counters:
    return Counters(input_bytes=unit.size_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=2_000)
    arguments = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}  {arguments.units:,} units")
    recipe, tokenizer = load(RECIPE, "simulated"), Tokenizer(TOKENIZER.read_bytes())
    with tempfile.TemporaryDirectory(prefix="bamba-driver-") as folder:
        store = open_store(folder)
        with step("lock, written and read"):
            files = (
                LockedFile(
                    "x",
                    f"part-{n:06d}.json.gz",
                    f"https://example.org/data/part-{n:06d}.json.gz",
                    Facts(8_000_000, f'"{n:032x}"'),
                )
                for n in range(arguments.units)
            )
            made = Lock({"x": recipe.sources()[0]}, {}, tuple(files))
            lock = locks.loads(canonical_json.dumps(made.to_json()), "lock")
            del made
        with step("plan"):
            plan = plans.make(recipe, lock, tokenizer.sha256)
            assert len(plan.units) == arguments.units
        with step(f"{arguments.tasks:,} tasks on Ray"):
            drive(plan, arguments.tasks)
        with step("records (not the driver's)"):
            staging = Staging(store)
            os.fsync = lambda descriptor: None  # not what is measured, and it is most of the time
            for unit in plan.units:
                made_up = staging.finish(record(unit))
                for part in made_up.parts:
                    assert part.shard is not None
                    sparse = Path(folder, part.shard.path)
                    sparse.parent.mkdir(exist_ok=True)
                    with sparse.open("wb") as file:
                        file.truncate(part.shard.size_bytes)
        with step("which are finished"):
            assert len(set(Staging(store).finished())) == arguments.units
        with step("assemble"):
            manifest = assemble(plan, store, tokenizer)
        tables = manifest.tables
        size = sum(table.size_bytes for table in (tables.files, tables.shards, tables.blocks)) / 1e6
        print(f"{manifest.totals.tokens / 1e12:.2f} T tokens, {tables.blocks.rows:,} blocks, {size:,.0f} MB of tables")


if __name__ == "__main__":
    main()
