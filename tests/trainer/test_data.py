"""The loader as a run's feed: where it is, how far it has read, and that a plan is gone on with, never begun anew."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from bamba_data.errors import UserError
from loader import build_loader
from trainer.config import Data, load_recipe
from trainer.data.feed import LoaderFeed
from trainer.distributed.fsdp import World

CPU = World(0, 1, torch.device("cpu"), None)  # type: ignore[arg-type]


def feed(dataset: Path, **rule: Any) -> LoaderFeed:
    given = {"row_tokens": 128, "batch_rows": 4, "holdout": 0.005, "workers": 0, **rule}
    return LoaderFeed(Data(urls=[str(dataset)], **given), CPU)


def rows(one: LoaderFeed, batches: int) -> list[list[int]]:
    return [batch["row"].tolist() for batch in islice(iter(one), batches)]


# ---- epochs


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_an_epoch_has_passed_when_every_row_of_it_was_given_out(dataset: Path, packing: str) -> None:
    one = feed(dataset, packing=packing, weights={"prose": 1}, batch_rows=1)
    first = build_loader(str(dataset), max_epochs=1, num_workers=0, plan=one.loader.plan)
    count = len(list(first))
    assert one.epochs(0) == {"prose": 0.0}
    assert one.epochs(count - 1)["prose"] < 1.0 <= one.epochs(count)["prose"] < 1.0 + 1 / count
    assert one.epochs(3 * count)["prose"] == pytest.approx(3.0, abs=2 / count)


def test_each_source_is_read_at_the_pace_of_its_weight(dataset: Path) -> None:
    one = feed(dataset, weights={"prose": 1, "short": 3})
    tokens = {name: one.loader.order.source(name).stream.epoch_tokens for name in one.sources}
    found = one.epochs(400)
    assert found["prose"] == pytest.approx(100 * 128 / tokens["prose"], rel=0.02)
    assert found["short"] == pytest.approx(300 * 128 / tokens["short"], rel=0.02)


# ---- packing


def test_best_fit_is_asked_for_in_the_recipe_and_is_another_order(dataset: Path) -> None:
    one = feed(dataset, packing="best-fit")
    assert one.loader.plan.header.packing == "best-fit"
    saved = feed(dataset).state_dict()
    with pytest.raises(UserError, match="packing was 'chunk' when this run began, is 'best-fit'"):
        one.load_state_dict(saved)


def test_a_packing_that_there_is_not_is_named_with_those_that_there_are(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"packs by 'worst-fit', and there are \['best-fit', 'chunk'\]"):
        feed(dataset, packing="worst-fit")


def test_the_packing_decides_what_is_learned() -> None:
    plain, other = load_recipe("tiny-cpu"), load_recipe("tiny-cpu", ["data.packing=best-fit"])
    assert plain.learned_digest() != other.learned_digest()


# ---- going on


def test_a_feed_goes_on_where_its_state_was(dataset: Path) -> None:
    whole = rows(feed(dataset), 6)
    first = feed(dataset)
    begun = rows(first, 2)
    second = feed(dataset)
    second.load_state_dict(first.state_dict())
    assert begun + rows(second, 4) == whole
    assert second.row == 24


def test_another_mix_holds_from_the_next_row_on_and_keeps_the_names_of_all_sources(dataset: Path) -> None:
    first = feed(dataset)
    rows(first, 2)
    second = feed(dataset, weights={"short": 1}, batch_rows=6)
    second.load_state_dict(first.state_dict())
    batch = next(iter(second))
    assert batch["row"].tolist() == list(range(8, 14))
    assert second.sources == ["prose", "short"]
    assert batch["source"].unique().tolist() == [1]
    assert second.epochs(14)["prose"] == first.epochs(8)["prose"]


def test_rows_that_are_left_out_stay_so_for_whoever_goes_on(dataset: Path) -> None:
    first = feed(dataset)
    rows(first, 2)
    first.skip(12, 8, "loss spike")
    assert rows(first, 2) == [[8, 9, 10, 11], [20, 21, 22, 23]]
    second = feed(dataset)
    second.load_state_dict(first.state_dict())
    assert [entry.kind for entry in second.loader.plan.entries] == ["mix", "skip"]
    assert rows(second, 1) == [[24, 25, 26, 27]]


def test_rows_that_are_left_out_twice_are_left_out_once_and_in_any_order(dataset: Path) -> None:
    first = feed(dataset)
    rows(first, 1)
    first.skip(16, 8, "the later one")
    first.skip(8, 12, "around its begin")
    assert rows(first, 2) == [[4, 5, 6, 7], [24, 25, 26, 27]]
    assert [(entry.kind, entry.row) for entry in first.loader.plan.entries] == [("mix", 0), ("skip", 8), ("skip", 16)]
