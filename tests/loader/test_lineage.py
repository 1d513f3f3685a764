"""Every token of a served row is traced to its shard row, and through the CLI to the upstream text."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.format.shard import ShardReader
from loader import build_loader
from loader.lineage import origins


def test_every_token_of_a_row_is_the_token_that_its_origin_names(tiny: Path, tmp_path: Path) -> None:
    loader = build_loader(
        str(tiny),
        {"lines": 2, "rows": 1},
        row_tokens=64,
        batch_rows=3,
        seed=1,
        cache=tmp_path,
        delimiters="none",
        holdout=0,
    )
    dataset = open_dataset(str(tiny))
    for _ in range(12):
        batch = next(loader)
        for ids, row in zip(batch["input_ids"].tolist(), batch["row"].tolist(), strict=True):
            found = origins(loader.order, row)
            assert sum(one.tokens for one in found) == 64
            for one in found:
                assert one.shard is not None and one.shard_row is not None
                assert (
                    ids[one.at : one.at + one.tokens]
                    == stored(dataset.store.url, one.shard, one.shard_row)[one.start : one.start + one.tokens]
                )
    loader.close()


def stored(root: str, shard: str, row: int) -> list[int]:
    reader = ShardReader(f"{root}/{shard}", shard)
    documents = [ids for block in range(reader.blocks) for ids in reader.tokens(block).documents()]
    return [int(i) for i in documents[row]]


def test_a_skipped_row_was_never_served(tiny: Path, tmp_path: Path) -> None:
    loader = build_loader(str(tiny), {"lines": 1}, row_tokens=64, batch_rows=4, cache=tmp_path, num_workers=0)
    other = loader.with_plan(loader.plan.with_skip(8, 4))
    with pytest.raises(UserError, match="row 9 is skipped"):
        origins(other.order, 9)


def test_trace_by_global_row_gives_the_upstream_text(tiny: Path, tmp_path: Path) -> None:
    loader = build_loader(
        str(tiny), {"lines": 2, "rows": 1}, row_tokens=64, batch_rows=3, seed=1, cache=tmp_path, num_workers=0
    )
    plan = tmp_path / "plan.json"
    plan.write_bytes(loader.plan.dumps())
    command = [sys.executable, "-m", "pipelines.cli", "trace", str(tiny), "--global-row", "5", "--plan", str(plan)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "tokens 0 to" in said and "same ids  yes" in said
    answer = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    traces = json.loads(answer)
    assert len(traces) == len(origins(loader.order, 5)) and all(one["same"] for one in traces)
