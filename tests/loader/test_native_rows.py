"""Compiled code fills rows with the bits that numpy fills them with."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bamba_data import native
from loader import OrderSpec, Reading, build_loader
from loader.collate import FIELDS
from loader.global_order import Order
from loader.packing.segments import SegmentCache
from loader.reading import Share
from loader.row_reader import RowReader
from tests.loader.plans import best_fit, plan_of, random_plan, source

pytestmark = pytest.mark.skipif(native.CODE is None, reason="there was no C compiler when this was installed")


def both_ways(monkeypatch: pytest.MonkeyPatch, make: Any) -> tuple[Any, Any]:
    """What `make` gives with compiled code, and without."""
    compiled = make()
    with monkeypatch.context() as without:
        without.setattr(native, "CODE", None)
        return compiled, make()


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype and array.shape == other[name].shape, name
        assert np.array_equal(array, other[name]), name


@pytest.mark.parametrize("seed", range(40))
def test_rows_of_generated_plans_are_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    sources = {name: source(dice, name, dice.randint(1, 9), 4, dice.choice([1, 9, 60])) for name in ("a", "b", "late")}
    plan = random_plan(dice, sources)
    order = Order(best_fit(plan, dice) if seed % 2 else plan, sources)
    fields = dice.sample(FIELDS, dice.randint(1, len(FIELDS)))
    share = Share(0, dice.choice([1, 3]), dice.random() < 0.5)

    def reader() -> RowReader:
        most = dice.choice([None, 1, 2]) if seed % 3 else None
        return RowReader(order, SegmentCache(None, 0), share, fields, most, ahead_rows=dice.choice([1, 50]))

    state = dice.getstate()
    compiled = reader()
    dice.setstate(state)
    with monkeypatch.context() as without:
        without.setattr(native, "CODE", None)
        plain = reader()
    assert plain._native is None
    for number, batch in enumerate(order.plan.batches(0)):
        same(compiled.read(batch), plain.read(batch))
        if number == 12:
            break


def test_a_plain_plan_is_filled_by_compiled_code() -> None:
    one = source(random.Random(1), "a", 3, 4, 9)
    order = Order(plan_of({"a": one}, {"a": 1}, 4), {"a": one})
    assert RowReader(order, SegmentCache(None, 0), Share(0, 1), FIELDS)._native is not None


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_a_cold_and_a_warm_cache_give_the_same_batches(
    mixed: Path, tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches() -> list[dict[str, Any]]:
        order = OrderSpec(row_tokens=64, batch_rows=8, seed=3, packing=packing)
        folder = tmp_path / str(native.CODE is None)
        found = []
        for _ in range(2):
            loader = build_loader(mixed, order, Reading(num_workers=0, fields=FIELDS, cache=folder, max_steps=40))
            found += [{name: batch[name].numpy() for name in FIELDS} for batch in loader]
        return found

    compiled, plain = both_ways(monkeypatch, batches)
    assert len(compiled) == len(plain) > 10
    for one, other in zip(compiled, plain, strict=True):
        same(one, other)


def test_a_cache_of_before_is_read_where_it_lies(mixed: Path, tmp_path: Path) -> None:
    """Segments lay in 256 folders; a file that is there is not made a second time."""

    def read(folder: Path) -> int:
        order = OrderSpec(row_tokens=64, batch_rows=8, seed=3)
        loader = build_loader(mixed, order, Reading(num_workers=0, cache=folder, max_steps=5, on_end="again"))
        assert len(list(loader)) == 5
        return loader.segments.made

    assert read(tmp_path) > 0
    for path in sorted((tmp_path / "segments").glob("?/*")):
        former = tmp_path / "segments" / path.name[:2] / path.name
        former.parent.mkdir(exist_ok=True)
        path.rename(former)
    assert read(tmp_path) == 0
