"""What a loader is told: an order and a reading, each said once; the ways of before still say the same."""

import re
from pathlib import Path
from typing import Any

import pytest

import loader as package
from bamba_data.errors import UserError
from loader import Loader, OrderSpec, Reading, Share, build_loader

ORDER = OrderSpec(weights={"code": 2, "prose": 1}, row_tokens=24, batch_rows=6, seed=3)


def rows(loader: Loader, batches: int = 3) -> list[Any]:
    return [next(loader)["input_ids"].tolist() for _ in range(batches)]


def refusal(*arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_loader(*arguments, **named)
    return str(caught.value)


def test_two_values_and_their_fields_by_name_make_the_same_loader(mixed: Path, cache: Path) -> None:
    by_value = build_loader(str(mixed), ORDER, Reading(rank=1, world_size=2, cache=cache))
    by_name = build_loader(
        str(mixed), weights={"code": 2, "prose": 1}, row_tokens=24, batch_rows=6, seed=3, rank=1, world_size=2,
        cache=cache,
    )  # fmt: skip
    assert by_value.plan == by_name.plan and by_value.reading == by_name.reading
    assert rows(by_value) == rows(by_name)


def test_weights_alone_are_an_order_by_them(mixed: Path, cache: Path) -> None:
    wanted = build_loader(str(mixed), OrderSpec(weights={"code": 1}), Reading(cache=cache)).plan
    assert build_loader(str(mixed), {"code": 1}, cache=cache).plan == wanted


def test_no_reading_changes_the_order(mixed: Path, cache: Path) -> None:
    wanted = build_loader(str(mixed), ORDER, Reading(cache=cache)).plan
    readings = [Reading(rank=2, world_size=3, max_steps=7, num_workers=0), Reading(micro_rows=2, pad_rows=True)]
    assert all(build_loader(str(mixed), ORDER, reading).plan == wanted for reading in readings)


def test_arguments_by_position_work_as_before_and_name_the_new_form(mixed: Path, cache: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"row_tokens, batch_rows, seed.*OrderSpec\(…\) and Reading\(…\)"):
        before: Loader = build_loader(str(mixed), {"code": 2, "prose": 1}, 24, 6, 3, 1, 2, 0, cache=cache)  # type: ignore[arg-type]
    now = build_loader(str(mixed), ORDER, Reading(rank=1, world_size=2, num_workers=0, cache=cache))
    assert before.plan == now.plan and before.reading == now.reading


def test_settings_of_before_are_a_reading(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="loader.Reading"):
        before = package.Settings(Share(1, 2, True), cache=tmp_path, max_steps=9)
    assert before == Reading(rank=1, world_size=2, pad_rows=True, cache=tmp_path, max_steps=9)


@pytest.mark.parametrize(
    ("arguments", "named", "said"),
    [
        ((ORDER,), {"seed": 4}, "seed is given twice: 4 by name, and 3 in order"),
        ((ORDER, Reading(rank=1, world_size=2)), {"rank": 0}, "rank is given twice: 0 by name, and 1 in reading"),
        (
            (ORDER,),
            {"weights": {"code": 1}},
            "weights is given twice: {'code': 1} by name, and {",
        ),
        (({"code": 1},), {"weights": {"prose": 1}}, "weights are given twice: {'code': 1} and {'prose': 1}"),
        ((), {"row_token": 24}, "no argument 'row_token': did you mean row_tokens?"),
        ((), {"zzz": 1}, "no argument 'zzz': there are weights, row_tokens,"),
        ((ORDER, 24), {}, "reading is 24: it must be a Reading"),
        (("web",), {}, "order is 'web': it can be an OrderSpec, or the weights"),
        ((Reading(),), {}, "order is Reading("),
    ],
    ids=str,
)
def test_what_is_unknown_or_given_twice_is_refused_with_both_sides(
    arguments: Any, named: Any, said: str, mixed: Path
) -> None:
    assert said in refusal(str(mixed), *arguments, **named)


def test_a_plan_stands_in_its_own_place_and_may_not_contradict_the_order(mixed: Path, cache: Path) -> None:
    plan = build_loader(str(mixed), ORDER, Reading(cache=cache)).plan
    assert build_loader(str(mixed), ORDER, Reading(cache=cache), plan=plan).plan == plan
    assert "order is a MixPlan: give it as plan=" in refusal(str(mixed), plan)
    other = OrderSpec(seed=4)
    assert "seed is 4, and the plan that is given has 3" in refusal(str(mixed), other, plan=plan, cache=cache)


def test_every_name_that_the_package_exports_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'build_loder'"):
        package.build_loder  # noqa: B018


@pytest.mark.parametrize(
    ("named", "said"),
    [
        *(({name: None}, f"{name} is None") for name in ("rank", "world_size", "num_workers", "prefetch_tokens")),
        ({"holdout": "0.001"}, "holdout is '0.001': it must be a number"),
        ({"delimiters": ""}, "delimiters are ''"),
        ({"packing": ""}, "packing is ''"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_argument(
    mixed: Path, cache: Path, named: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        build_loader(str(mixed), cache=cache, **named)


def test_settings_of_before_take_no_more_than_they_took() -> None:
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="9 arguments"):
        package.Settings(Share(0, 1), ("input_ids",), None, 1 << 30, None, "first", 5, None, "more")
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match=r"'cache'\] twice"):
        package.Settings(Share(0, 1), ("input_ids",), None, cache="x")
