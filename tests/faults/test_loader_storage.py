"""The store fails, stalls or lies: the loader rides it out, or says what happened; never a wrong token."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from bamba_data.errors import CorruptShard
from bamba_data.format.dataset import open_dataset
from loader import Loader, Reading, TokenDataset, build_loader
from tests.loader.real import all_rows
from tests.servers.faults import Fault, FlipBit, Stall, Status
from tests.servers.proxy import FlakyProxy
from tests.servers.seaweed import SeaweedServer

MIX: dict[str, Any] = {"row_tokens": 64, "batch_rows": 6, "seed": 4, "max_steps": 40, "prefetch_tokens": 2000}
SHARDS = r"GET .*\.parquet"


@pytest.fixture
def remote(s3: SeaweedServer, bucket: str, mixed_data: Path) -> str:
    """The dataset in a bucket."""
    s3.filesystem().put(f"{mixed_data}/", bucket.removeprefix("s3://") + "/data/", recursive=True)
    return f"{bucket}/data"


def rows(loader: Loader) -> dict[int, Any]:
    return all_rows(loader, list(loader.plan.source_names))


def test_a_dataset_on_s3_gives_the_rows_of_the_one_on_disk(mixed_data: Path, remote: str, tmp_path: Path) -> None:
    local = rows(build_loader(str(mixed_data), **MIX, cache=tmp_path / "a"))
    assert rows(build_loader(remote, **MIX, cache=tmp_path / "b")) == local


@pytest.mark.costly
def test_answers_of_5xx_cost_time_and_no_row(mixed_data: Path, remote: str, flaky: FlakyProxy, tmp_path: Path) -> None:
    wanted = rows(build_loader(str(mixed_data), **MIX, cache=tmp_path / "a"))
    flaky.faults.append(Fault(SHARDS, Status(503), times=6, probability=0.5))
    flaky.faults.append(Fault(SHARDS, Status(500), times=3, skip=2))
    assert rows(build_loader(remote, **MIX, cache=tmp_path / "b")) == wanted
    assert not flaky.faults


def test_a_bit_that_flips_on_the_way_is_read_again(
    mixed_data: Path, remote: str, flaky: FlakyProxy, tmp_path: Path
) -> None:
    wanted = rows(build_loader(str(mixed_data), **MIX, cache=tmp_path / "a"))
    flaky.faults.append(Fault(SHARDS, FlipBit(150), times=8, probability=0.3))
    assert rows(build_loader(remote, **MIX, cache=tmp_path / "b")) == wanted
    assert len(flaky.faults) == 0 or flaky.faults[0].times < 8


@pytest.mark.costly
def test_a_stall_costs_a_consumer_that_was_read_ahead_for_nothing(
    remote: str, flaky: FlakyProxy, tmp_path: Path
) -> None:
    """50,000 tokens a second are 10 batches of 5,120 tokens; the reads of 10 seconds lie ahead."""
    loader = build_loader(remote, row_tokens=512, batch_rows=10, seed=4, num_workers=4, cache=tmp_path / "b")
    loader.order.source("prose")
    next(loader)
    time.sleep(8)  # the reading ahead catches up
    flaky.faults.append(Fault(SHARDS, Stall(10), times=1))
    waited, asked = 0.0, len(flaky.requests)
    stalled = False
    for _ in range(150):
        began = time.monotonic()
        waited = max(waited, next(loader)["waited_seconds"])
        stalled |= not flaky.faults
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
    loader.close()
    assert stalled and len(flaky.requests) > asked
    assert waited < 5


def test_a_damaged_shard_on_s3_is_an_error_that_names_it_and_then_healed_by_its_owner(
    mixed_data: Path, remote: str, s3: SeaweedServer, tmp_path: Path
) -> None:
    wanted = rows(build_loader(str(mixed_data), **MIX, cache=tmp_path / "a"))
    key = f"{remote.removeprefix('s3://')}/{open_dataset(remote).shards['path'][0]}"
    store = s3.filesystem()
    good = store.cat_file(key)
    store.pipe_file(key, good[:200] + bytes([good[200] ^ 4]) + good[201:])
    loader = build_loader(remote, **MIX, cache=tmp_path / "b")
    found: dict[int, Any] = {}
    with pytest.raises(CorruptShard, match=key.rsplit("/", 1)[1]):
        for batch in loader:
            found |= all_rows([batch], list(loader.plan.source_names))
    assert all(wanted[g] == row for g, row in found.items())
    # The same loader goes on where it was, once the store has the right bytes again.
    store.pipe_file(key, good)
    found |= rows(loader)
    assert found == wanted


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_an_error_of_a_reading_thread_reaches_the_trainer_and_the_next_call_tries_again(
    mixed_data: Path, tmp_path: Path, num_workers: int
) -> None:
    data = Path(shutil.copytree(mixed_data.parent, tmp_path / "copy")) / "dataset"
    wanted = rows(build_loader(str(data), **MIX, cache=tmp_path / "a"))
    path = data / open_dataset(str(data)).shards["path"][0]
    path.rename(path.with_suffix(".away"))
    loader = build_loader(str(data), **MIX, num_workers=num_workers, cache=tmp_path / "b")
    found: dict[int, Any] = {}
    for _ in range(2):  # it does not skip the batch that failed
        with pytest.raises(CorruptShard, match="is missing") as caught:
            for batch in loader:
                found |= all_rows([batch], list(loader.plan.source_names))
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert loader.state_dict()["row"] == len(found)
    path.with_suffix(".away").rename(path)
    found |= rows(loader)
    assert found == wanted


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_dataloader_read_s3_too(remote: str, mixed_data: Path, tmp_path: Path, context: str) -> None:
    """The parent has talked to S3 before its workers begin: what they inherit of that must not stop them."""
    wanted = build_loader(str(mixed_data), **MIX, cache=tmp_path / "a")
    order = build_loader(remote, **MIX, cache=tmp_path / "b").order
    next(build_loader(remote, **MIX, cache=tmp_path / "c"))
    dataset = TokenDataset(order, Reading(cache=tmp_path / "b", max_steps=40))
    found = rows_of_workers(dataset, context)
    assert found == rows(wanted)


def rows_of_workers(dataset: TokenDataset, context: str) -> dict[int, Any]:
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context, timeout=60)
    return all_rows(loader, list(dataset.order.plan.source_names))
