"""The served order that quality measures is the one that batches come from."""

import random
from pathlib import Path

import numpy as np
import pytest

from bamba_data.exit_codes import run
from bamba_data.format.dataset import open_dataset
from loader.collate import FIELDS
from loader.global_order import Order
from loader.order.plan import MixPlan
from loader.packing.segments import SegmentCache
from loader.quality.__main__ import app
from loader.quality.battery import examine
from loader.quality.judge import absurd
from loader.quality.served_order import blocks_of, files_of, row_order, rows_by_block, served
from loader.reading import Share
from loader.row_reader import RowReader
from tests.loader.oracle import MemoryBlocks

ROW_TOKENS = 10


def blocks(name: str, count: int, seed: int) -> MemoryBlocks:
    """An id says which block it is in."""
    dice = random.Random(seed)
    return MemoryBlocks(
        name, [[[number] * dice.randint(0, 30) for _ in range(dice.randint(1, 8))] or [[1]] for number in range(count)]
    )


def order_of(window_rows: int, batch_rows: int = 24) -> Order:
    sources = {"a": blocks("a", 40, 1), "b": blocks("b", 25, 2)}
    plan = MixPlan.create(
        {"a": 3, "b": 1},
        {name: one.identity for name, one in sources.items()},
        batch_rows,
        seed=7,
        row_tokens=ROW_TOKENS,
        before=[],
        after=[],
        window_rows=window_rows,
        holdout_ppm=0,
    )
    return Order(plan, sources)


@pytest.mark.parametrize("window_rows", [1, 50, 1000])
def test_blocks_are_those_whose_tokens_the_rows_begin_with(window_rows: int) -> None:
    order = order_of(window_rows)
    reader = RowReader(order, SegmentCache(None, 0), Share(0, 1, False), FIELDS)
    found = served(order, 30)
    for index, name in enumerate(("a", "b")):
        numbers, first_ids = [], []
        for number, batch in zip(range(30), order.plan.batches(0), strict=False):
            arrays = reader.read(batch)
            own = arrays["source"] == index
            numbers += [number] * int(own.sum())
            first_ids += arrays["input_ids"][own][:, 0].tolist()
        assert found[name].batches.tolist() == numbers
        assert found[name].blocks.tolist() == first_ids


def test_it_begins_where_it_is_asked_to() -> None:
    order = order_of(50)
    everything, later = served(order, 20)["a"], served(order, 5, first_row=15 * 24)["a"]
    assert later.blocks.tolist() == everything.blocks[everything.batches >= 15].tolist()
    assert set(later.batches.tolist()) <= set(range(5))


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_rows_of_every_block_are_counted(epoch: int) -> None:
    stream = order_of(50).source("a").stream
    rows = np.arange(stream.first_row(epoch), stream.first_row(epoch + 1))
    counted = np.bincount(blocks_of(stream, rows), minlength=40)
    assert rows_by_block(stream, epoch).tolist() == counted.tolist()


def test_a_wide_window_is_less_local_than_a_narrow_one() -> None:
    found = {}
    for window_rows in (5, 1000):
        order = order_of(window_rows)
        rows = rows_by_block(order.source("a").stream)
        found[window_rows] = served(order, 20)["a"].locality(rows)
    assert found[5].pairs > 1.5 * found[1000].pairs
    assert found[5].distinct < found[1000].distinct
    assert found[5].ideal_pairs == pytest.approx(found[1000].ideal_pairs)


def test_locality_by_files_joins_their_blocks() -> None:
    order = order_of(1000)
    rows, one = rows_by_block(order.source("a").stream), served(order, 20)["a"]
    assert one.locality_by(np.arange(40), rows) == one.locality(rows)
    together = one.locality_by(np.zeros(40, np.int64), rows)
    assert together.distinct == together.ideal_distinct == 1
    assert together.pairs == pytest.approx(together.ideal_pairs)


def test_files_are_found_by_the_shard_of_a_block() -> None:
    assert files_of(np.array([3, 3, 8, 3, 9]), {3: 0, 8: 0, 9: 4}).tolist() == [0, 0, 0, 0, 4]


def test_a_window_as_wide_as_the_epoch_is_a_true_shuffle_of_rows() -> None:
    sources = {"a": blocks("a", 600, 3)}
    plan = MixPlan.create(
        {"a": 1}, {"a": "memory/a"}, 8, seed=1, row_tokens=4, before=[], after=[], window_rows=10**6, holdout_ppm=0
    )
    stream = Order(plan, sources).source("a").stream
    order = row_order(stream)
    assert order.size > 5000
    assert absurd(examine(order)) == []


def test_a_dataset_is_examined_source_by_source(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(demo), "--row-tokens", "32", "--batch-rows", "96", "--out", str(tmp_path / "out")]
    assert run(app, asked) == 0
    said = capsys.readouterr().out
    names = [source.name for source in open_dataset(str(demo)).manifest.sources]
    assert all(name in said for name in names)
    assert "ideal" in said
    assert (tmp_path / "out" / "scatter.png").exists()


def test_weights_choose_the_sources(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(source.name for source in open_dataset(str(demo)).manifest.sources)
    assert run(app, [str(demo), "--weights", f"{names[0]}=0.5", "--row-tokens", "32", "--batch-rows", "16"]) == 0
    said = capsys.readouterr().out
    assert names[0] in said
    assert names[1] not in said
    assert run(app, [str(demo), "--weights", "nobody=1"]) == 2
    assert "nobody=1" in capsys.readouterr().err


def test_a_dataset_and_an_order_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["somewhere", "--order", "some.npy"]) == 2
    assert "not both" in capsys.readouterr().err
