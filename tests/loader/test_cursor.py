"""A state is of one order, small, and refused by any other with both named; what is accepted anyway is recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import UserError
from loader import Loader, build_loader
from loader.order.mixture import MAX_ROW
from loader.order.resume import CursorMismatch, from_json
from tests.loader.real import size_of

MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 7, "seed": 11, "prefetch_tokens": 200, "num_workers": 0}


def at(data: Path, cache: Path, batches: int = 3, **more: Any) -> Loader:
    loader = build_loader(str(data), **MIX | {"cache": cache} | more)
    for _ in range(batches):
        next(loader)
    return loader


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 12},
        {"row_tokens": 25},
        {"batch_rows": 8},
        {"weights": {"code": 1, "prose": 2, "short": 3}},
        {"weights": {"code": 1}},
        {"delimiters": "none"},
        {"holdout": 0.001},
        {"shuffle": False},
        {"window_rows": 9},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_state_of_another_order_is_refused_with_both_named(mixed: Path, cache: Path, other: dict[str, Any]) -> None:
    state = at(mixed, cache).state_dict()
    loader = at(mixed, cache, 0, **other)
    with pytest.raises(CursorMismatch) as caught:
        loader.load_state_dict(state)
    said = str(caught.value)
    assert state["prefix"][:16] in said
    assert loader.plan.prefix_digest(21)[:16] in said
    assert "accept_other_order" in said
    assert loader.state_dict()["row"] == 0


def test_a_state_of_another_dataset_is_refused(mixed: Path, tiny: Path, cache: Path) -> None:
    with pytest.raises(CursorMismatch):
        at(mixed, cache, 0).load_state_dict(at(tiny, cache).state_dict())


def test_a_plan_that_only_adds_later_takes_the_state_of_the_shorter_one(mixed: Path, cache: Path) -> None:
    loader = at(mixed, cache)
    longer = loader.plan.with_mix(70, {"code": 1}).with_skip(77, 7)
    other = build_loader(str(mixed), plan=longer, cache=cache)
    other.load_state_dict(loader.state_dict())
    assert next(other)["row"].tolist() == list(range(21, 28))


def test_a_plan_that_changes_the_past_is_refused(mixed: Path, cache: Path) -> None:
    loader = at(mixed, cache)
    for changed in (loader.plan.with_mix(14, {"code": 1}), loader.plan.with_skip(7, 7), loader.plan.with_note(20, "x")):
        with pytest.raises(CursorMismatch):
            build_loader(str(mixed), plan=changed, cache=cache).load_state_dict(loader.state_dict())


def test_what_was_accepted_stays_in_the_state(mixed: Path, cache: Path) -> None:
    state = at(mixed, cache).state_dict()
    other = at(mixed, cache, 0, seed=12)
    other.load_state_dict(state, accept_other_order="the old seed was a mistake")
    assert next(other)["row"].tolist() == list(range(21, 28))
    accepted = other.state_dict()["accepted"]
    assert accepted == f"row 21, from {state['prefix'][:16]}: the old seed was a mistake"
    third = at(mixed, cache, 0, seed=12)
    third.load_state_dict(other.state_dict())
    assert third.state_dict()["accepted"] == accepted


def test_a_state_is_small_however_much_was_accepted(mixed: Path, cache: Path) -> None:
    state = at(mixed, cache).state_dict()
    for seed in range(12, 22):
        loader = at(mixed, cache, 0, seed=seed)
        loader.load_state_dict(state, accept_other_order='日本語\\"' * 1000)
        next(loader)
        state = loader.state_dict()
        assert size_of(state | {"plan": ""}) < 1024
    assert len(state["accepted"].splitlines()) == 3


def test_a_state_at_no_begin_of_a_batch_is_refused_with_the_begin(mixed: Path, cache: Path) -> None:
    state = at(mixed, cache).state_dict()
    other = at(mixed, cache, 0, batch_rows=4)
    with pytest.raises(UserError, match="begins at row 20"):
        other.load_state_dict(state, accept_other_order="another batch")
    assert other.state_dict()["row"] == 0


def test_a_state_refused_changes_nothing(mixed: Path, cache: Path) -> None:
    loader = at(mixed, cache)
    before = loader.state_dict()
    with pytest.raises(CursorMismatch):
        loader.load_state_dict(at(mixed, cache, seed=1).state_dict())
    assert loader.state_dict() == before
    assert next(loader)["row"].tolist() == list(range(21, 28))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "bamba-cursor/2"},
        {"row": -1},
        {"row": "21"},
        {"row": None},
        {"row": MAX_ROW},
        {"row": 1e300},
        {"steps": -1},
        {"steps": 10**30},
        {"prefix": 5},
    ],
    ids=str,
)
def test_a_damaged_state_is_refused(mixed: Path, cache: Path, change: dict[str, Any]) -> None:
    state = at(mixed, cache).state_dict()
    with pytest.raises(UserError):
        from_json(state | change)


@pytest.mark.parametrize("raw", [None, [], "x", 3, {}])
def test_what_is_no_state_is_refused(raw: Any) -> None:
    with pytest.raises(UserError, match="no state of a loader"):
        from_json(raw)


def test_it_is_plain_json(mixed: Path, cache: Path) -> None:
    state = at(mixed, cache).state_dict()
    assert json.loads(json.dumps(state)) == state
    assert size_of(state | {"plan": ""}) < 256
    assert set(state) == {"format", "row", "steps", "prefix", "accepted", "plan"}


def test_a_record_that_is_no_text_is_refused(mixed: Path, cache: Path) -> None:
    loader = at(mixed, cache)
    with pytest.raises(UserError, match="accepted"):
        loader.load_state_dict(loader.state_dict() | {"accepted": []})
