"""A plan is only ever added to; what it skips is not served, what it puts in quarantine is no target; in real runs."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import UserError
from loader import Loader, MixPlan, build_loader
from loader.order.plan import load, loads
from loader.order.plan_entries import integers
from tests.loader.oracle import Oracle
from tests.loader.real import in_memory, oracle, rows_of

MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 6, "seed": 5, "prefetch_tokens": 200}


def made(data: Path, cache: Path, **more: Any) -> Loader:
    return build_loader(str(data), **MIX | {"cache": cache} | more)


def with_plan(data: Path, cache: Path, plan: MixPlan) -> Loader:
    return build_loader(str(data), plan=plan, cache=cache, prefetch_tokens=200)


def test_skipped_rows_are_not_served_and_all_others_stay(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache)
    plan = loader.plan.with_skip(12, 18, "a spike of the loss")
    names = list(plan.source_names)
    wanted = {g: row for batch in itertools.islice(loader, 10) for g, row in rows_of(batch, names).items()}
    found: dict[int, Any] = {}
    for batch in itertools.islice(with_plan(mixed, cache, plan), 7):
        found |= rows_of(batch, names)
    assert sorted(found) == [*range(12), *range(30, 60)]
    assert all(wanted[g] == row for g, row in found.items())


def test_a_document_in_quarantine_is_no_target_from_then_on_and_gone_in_later_epochs(mixed: Path, cache: Path) -> None:
    blocks = in_memory(mixed, 500)["prose"].blocks
    longest = max((len(d), b, n) for b, block in enumerate(blocks) for n, d in enumerate(block))
    _, block, document = longest
    plan = made(mixed, cache, weights={"prose": 1}).plan.with_quarantine(0, "prose", block, document, "bad text")
    loader = with_plan(mixed, cache, plan)
    stream = loader.order.source("prose").stream
    rows = stream.first_row(3)
    gone = {"prose": dict(loader.order.source("prose").left_out_from)}
    wanted = Oracle(plan, in_memory(mixed, plan.header.holdout_ppm), rows + 6, gone)
    masked = 0
    for batch in itertools.islice(loader, rows // 6):
        for g, row in rows_of(batch, ["prose"]).items():
            assert row == wanted.row(g)._replace(tokens=[])
            masked += sum(token.document[1:] == (block, document) for token in wanted.row(g).tokens)
    assert masked >= longest[0]
    late = loader.order.source("prose").left_out_from[(block, document)]
    assert stream.first_token(late + 1) - stream.first_token(late) == stream.epoch_tokens - longest[0] - 1


def test_a_batch_that_grows_cuts_the_same_rows(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache)
    plan = loader.plan.with_mix(12, batch_rows=12).with_mix(36, batch_rows=18)
    wanted = oracle(mixed, plan, 90)
    sizes = []
    for batch in itertools.islice(with_plan(mixed, cache, plan), 7):
        sizes.append(len(batch["row"]))
        for g, row in rows_of(batch, list(plan.source_names)).items():
            assert row == wanted.row(g)._replace(tokens=[])
    assert sizes == [6, 6, 12, 12, 18, 18, 18]


def test_a_plan_comes_back_from_its_file(mixed: Path, cache: Path, tmp_path: Path) -> None:
    plan = made(mixed, cache).plan.with_skip(6, 6).with_mix(24, {"code": 2}).with_note(24, "why not")
    (tmp_path / "plan.json").write_bytes(plan.dumps())
    assert load(tmp_path / "plan.json") == plan
    one, other = with_plan(mixed, cache, plan), build_loader(str(mixed), plan=tmp_path / "plan.json", cache=cache)
    for _ in range(6):
        assert next(one)["input_ids"].tolist() == next(other)["input_ids"].tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["entries"].clear(), "entries"),
        (lambda raw: raw["entries"][0].update(row=6), "begins with a mix at row 0"),
        (lambda raw: raw["entries"][0]["weights"].update(nix=1), "nix"),
        (lambda raw: raw["entries"][0].update(batch_rows=0), "batch_rows"),
        (lambda raw: raw["header"].update(seed="1"), "seed"),
        (lambda raw: raw["header"].update(holdout_ppm=600_000), "holdout_ppm"),
        (lambda raw: raw.update(more=1), "more"),
        (lambda raw: raw["entries"].append({"kind": "skip", "row": 3, "rows": 6}), "inside a batch"),
        (lambda raw: raw["entries"].append({"kind": "exec", "row": 6}), "kind"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_with_the_reason(
    mixed: Path, cache: Path, change: Any, said: str
) -> None:
    raw = json.loads(made(mixed, cache).plan.dumps())
    change(raw)
    with pytest.raises(UserError, match=said):
        loads(json.dumps(raw).encode(), "plan.json")


def test_what_is_no_json_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("weights: 3")
    with pytest.raises(Exception, match=r"plan\.json"):
        load(tmp_path / "plan.json")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.json")


def test_entries_are_only_ever_added(mixed: Path, cache: Path) -> None:
    plan = made(mixed, cache).plan.with_mix(24, {"code": 1})
    for add in (
        lambda: plan.with_mix(12, {"code": 2}),
        lambda: plan.with_skip(6, 6),
        lambda: plan.with_quarantine(0, "prose", 1),
    ):
        with pytest.raises(UserError, match="only ever added to"):
            add()


def test_a_quarantine_of_what_is_not_there_is_refused(mixed: Path, cache: Path) -> None:
    plan = made(mixed, cache).plan
    with pytest.raises(UserError, match="quarantine of block 9,999"):
        with_plan(mixed, cache, plan.with_quarantine(0, "prose", 9999))
    with pytest.raises(UserError, match="quarantine of document 9999"):
        with_plan(mixed, cache, plan.with_quarantine(0, "prose", 0, 9999))


def test_data_that_changed_under_a_plan_is_refused_with_both_named(mixed: Path, tiny: Path, cache: Path) -> None:
    plan = made(mixed, cache).plan
    with pytest.raises(UserError, match=r"the plan names source 'code', the data has \['lines', 'rows'\]"):
        with_plan(tiny, cache, plan)
    raw = json.loads(plan.dumps())
    raw["sources"]["code"] = "0" * 64 + "/code"
    with pytest.raises(UserError, match="of manifest 0000000000000000…, which does not lie in this store"):
        with_plan(mixed, cache, loads(json.dumps(raw).encode(), "plan.json"))


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ({"a": 0.1, "b": 0.2}, {"a": 1, "b": 2}),
        ({"a": "1/3", "b": "2/3"}, {"a": 1, "b": 2}),
        ({"a": 1456, "b": 0}, {"a": 1}),
        ({"a": 0.3, "b": 1}, {"a": 3, "b": 10}),
    ],
)
def test_weights_are_the_numbers_that_people_wrote(weights: dict[str, Any], whole: dict[str, int]) -> None:
    assert integers(weights) == whole


@pytest.mark.parametrize("weights", [{"a": -1}, {"a": "x"}, {"a": 0}, {}, {"a": float("nan")}, {"a": float("inf")}])
def test_weights_that_are_none_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        integers(weights)
