"""A plan that makes no sense is refused in one line wherever it is given; one that is only odd is served to the row."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bamba_data.errors import BambaError, UserError
from loader import build_loader
from loader.global_order import Order
from loader.order.mixture import MAX_ROW
from loader.order.plan import MixPlan, loads
from tests.loader.oracle import MemoryBlocks, Oracle, Row
from tests.loader.plans import gone, plan_of, served, source

ONE = MemoryBlocks("a", [[[1, 2, 3, 4, 5], [6, 7, 8]]])
SOURCES = {
    "a": ONE,
    "b": MemoryBlocks("b", [[[n, n + 1, n + 2] for n in range(10, 40)], [[n] * 9 for n in range(50, 60)]], ((1, 3),)),
    "void": MemoryBlocks("void", [[[]]]),
}
IDENTITIES = {name: one.identity for name, one in SOURCES.items()}


def plan(**header: Any) -> MixPlan:
    return plan_of(SOURCES, {"a": 1, "b": 2}, 6, row_tokens=8, **header)


def edited(**header: Any) -> MixPlan:
    """As a hand would write it."""
    raw = plan().to_json()
    raw["header"].update(header)
    return loads(json.dumps(raw).encode(), "plan.json")


def entries(*listed: dict[str, Any]) -> MixPlan:
    raw = plan().to_json()
    raw["entries"] = list(listed)
    return loads(json.dumps(raw).encode(), "plan.json")


MIX = {"kind": "mix", "row": 0, "weights": {"a": 1, "b": 2}, "batch_rows": 6}

# ruff: noqa: E501
#: What it is, the plan, and what is said of it; None where it is served.
PLANS: list[tuple[str, Callable[[], MixPlan], str | None]] = [
    ("all in quarantine, then a batch size", lambda: plan().with_quarantine(0, "a", 0).with_mix(12, batch_rows=4), "every document of source 'a' is in quarantine"),
    ("the last document, then a mix", lambda: plan().with_quarantine(0, "a", 0, 0).with_quarantine(6, "a", 0, 1).with_mix(60, {"a": 2, "b": 1}), "every document of source 'a'"),
    ("the last document and no mix", lambda: plan().with_quarantine(6, "a", 0), "leave it out of the mix at row"),
    ("the last document, far ahead", lambda: plan().with_quarantine(6 * 10**9, "a", 0), "every document of source 'a'"),
    ("all in quarantine, and left out in time", lambda: plan().with_quarantine(0, "a", 0).with_mix(6, {"b": 1}), None),
    ("all in quarantine, and left out at once", lambda: plan().with_quarantine(0, "a", 0).with_mix(0, {"b": 1}), None),
    ("a document twice", lambda: plan().with_quarantine(0, "b", 0, 3).with_quarantine(6, "b", 0, 3), None),
    ("a document that is held out", lambda: plan().with_quarantine(0, "b", 1, 3), None),
    ("a block and a document of it", lambda: plan().with_quarantine(0, "b", 0, 3).with_quarantine(6, "b", 0), None),
    ("no such block", lambda: plan().with_quarantine(0, "b", 2), "which has 2"),
    ("no such document", lambda: plan().with_quarantine(0, "b", 0, 30), "no such"),
    ("a negative block", lambda: plan().with_quarantine(0, "b", -1), "block is -1"),
    ("quarantine of an unknown source", lambda: plan().with_quarantine(0, "c", 0), "no source of the plan"),
    ("a source without tokens", lambda: plan_of(SOURCES, {"void": 1}, 6, after=[]), "'void' has no tokens"),
    ("a source of delimiters alone", lambda: plan_of(SOURCES, {"void": 1}, 6, row_tokens=8), None),
    ("a skip from row 0 on", lambda: plan().with_skip(0, 12), None),
    ("a skip up to a mix", lambda: plan().with_skip(6, 12).with_mix(18, {"a": 1}), None),
    ("a skip, then a mix at its begin", lambda: plan().with_skip(6, 12).with_mix(6, {"a": 1}), None),
    ("two skips in a row", lambda: plan().with_skip(6, 6).with_skip(12, 6), None),
    ("a skip into a mix", lambda: plan().with_skip(6, 18).with_mix(18, {"a": 1}), "lies in rows that are skipped"),
    ("a skip of what is skipped", lambda: plan().with_skip(6, 12).with_skip(6, 6), "lies in rows that are skipped"),
    ("a skip inside a skip", lambda: plan().with_skip(6, 18).with_skip(12, 6), "lies in rows that are skipped"),
    ("a skip from inside a batch", lambda: plan().with_skip(3, 6), "the skip at row 3 lies inside a batch"),
    ("a skip to inside a batch", lambda: plan().with_skip(6, 3), "the end of the skip at row 9 lies inside a batch"),
    ("a skip of no row", lambda: plan().with_skip(6, 0), "rows is 0"),
    ("a skip of all rows", lambda: plan().with_skip(6, MAX_ROW - 6), "rows end at 2**62"),
    ("a mix inside a batch", lambda: plan().with_mix(7, {"a": 1}), "the mix at row 7 lies inside a batch"),
    ("a mix inside a skip", lambda: plan().with_skip(6, 18).with_mix(12, {"a": 1}), "lies in rows that are skipped"),
    ("the same mix again", lambda: plan().with_mix(12).with_mix(12).with_mix(18), None),
    ("many mixes at one row", lambda: plan().with_mix(12, {"a": 1}).with_mix(12, {"b": 1}).with_mix(12, {"a": 3, "b": 1}), None),
    ("a mix of no weight", lambda: plan().with_mix(6, {"a": 0}), "no source has a weight above 0"),
    ("a negative weight", lambda: plan().with_mix(6, {"a": -1}), "is negative"),
    ("a weight that is no number", lambda: plan().with_mix(6, {"a": "much"}), "is no number"),
    ("an infinite weight", lambda: plan().with_mix(6, {"a": float("inf")}), "is no number"),
    ("a weight that is next to nothing", lambda: plan().with_mix(6, {"a": 1, "b": 2**70}), "2**-44"),
    ("a batch of no row", lambda: plan().with_mix(6, batch_rows=0), "batch_rows is 0"),
    ("a batch of a million million rows", lambda: plan().with_mix(6, batch_rows=10**12), "batch_rows is 1000000000000"),
    ("a lattice of a million rows", lambda: plan_of(SOURCES, {"a": 1}, 2**20), "rows a step"),
    ("a row beyond the last", lambda: plan().with_mix(MAX_ROW, {"a": 1}), "row is"),
    ("a row that is no whole number", lambda: plan().with_mix(1.5, {"a": 1}), "row is 1.5"),  # type: ignore[arg-type]
    ("other data under a name", lambda: plan().with_mix(6, {"a": 1}, sources={"a": "x"}), "other data now"),
    ("no entry", lambda: entries(), "entries"),
    ("no mix at first", lambda: entries({"kind": "note", "row": 0, "why": "x"}, MIX), "begins with a mix at row 0"),
    ("a first mix at row 6", lambda: entries({**MIX, "row": 6}), "begins with a mix at row 0"),
    ("entries out of order", lambda: entries(MIX, {**MIX, "row": 18}, {**MIX, "row": 6}), "in the order of their rows"),
    ("a skip out of order", lambda: entries(MIX, {**MIX, "row": 18}, {"kind": "skip", "row": 6, "rows": 6}), "in the order of their rows"),
    ("an unknown kind", lambda: entries(MIX, {"kind": "exec", "row": 6}), "kind"),
    ("an unknown field", lambda: entries({**MIX, "colour": "red"}), "colour"),
    ("an id that the tokens have no room for", lambda: edited(after=[70_000]), "id 70000 around documents"),
    ("a negative id", lambda: edited(before=[-1]), "id -1 around documents"),
    ("rows of no token", lambda: edited(row_tokens=0), "row_tokens"),
    ("rows of one token", lambda: edited(row_tokens=1), None),
    ("a window of one row", lambda: edited(window_rows=1), None),
    ("a window beyond any row", lambda: edited(window_rows=2**62), None),
    ("a window of no row", lambda: edited(window_rows=0), "window_rows"),
    ("too large a share held out", lambda: edited(holdout_ppm=600_000), "holdout_ppm"),
    ("an unknown packing", lambda: edited(packing="tetris"), "packs by 'tetris'"),
    ("a seed of 64 bits", lambda: edited(seed=2**63), "out of range"),
    ("another format", lambda: edited(format="bamba-plan/9"), "format"),
    ("a cap below what was read", lambda: plan().with_cap(60, "a", 1, 2), None),
    ("a cap on all sources", lambda: plan().with_cap(0, "a", 1, 2).with_cap(0, "b", 1, 9), "no source is left"),
    ("a cap of no epoch", lambda: plan().with_cap(0, "a", 0, 0), "epochs is 0"),
    ("a cap on an unknown source", lambda: plan().with_cap(0, "c", 1, 2), "no source of the plan"),
    ("a cap inside a batch", lambda: plan().with_cap(3, "a", 1, 2), "inside a batch"),
    ("a ramp of no row", lambda: plan().with_ramp(6, 0, {"a": 1}), "rows is 0"),
    ("a ramp inside a batch", lambda: plan().with_ramp(3, 60, {"a": 1}), "inside a batch"),
    ("a ramp shorter than its stages", lambda: plan().with_ramp(6, 12, {"a": 1}, stages=1000), None),
    ("a ramp of a million stages", lambda: plan().with_ramp(6, 60, {"a": 1}, stages=10**6), "stages is 1000000"),
    ("a ramp that a mix ends", lambda: plan().with_ramp(6, 60, {"a": 1}, 4).with_mix(30, {"a": 1, "b": 1}), None),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), [one[1:] for one in PLANS], ids=[one[0] for one in PLANS])
def test_a_degenerate_plan_is_refused_in_one_line_or_served_as_the_oracle_has_it(
    make: Callable[[], MixPlan], said: str | None
) -> None:
    if said is not None:
        with pytest.raises(BambaError) as caught:
            Order(make(), SOURCES)
        assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
        return
    made = loads(make().dumps(), "plan.json")
    assert made == make()
    order = Order(made, SOURCES)
    if any(order.source(name).stream.ended is not None for name in made.sources):
        assert [len(served(order, batch, 2)) for batch in islice(made.batches(0), 12)]
        return
    oracle = Oracle(made, SOURCES, 90, gone(order))
    for batch in islice(made.batches(0), 12):
        if batch.first_row + batch.rows <= 90:
            for g, row in served(order, batch, 2).items():
                assert row == oracle.row(g)._replace(tokens=[])


def first_rows(made: MixPlan, batches: int) -> dict[int, Row]:
    order = Order(made, SOURCES)
    return {g: row for batch in islice(made.batches(0), batches) for g, row in served(order, batch, 1).items()}


def test_what_runs_out_is_filled_up_and_masked_and_the_way_out_is_one() -> None:
    quarantined = plan().with_quarantine(6, "a", 0)
    with pytest.raises(UserError) as caught:
        Order(quarantined, SOURCES)
    said = re.search(r"from row (\d+) on .* the mix at row (\d+) or before", str(caught.value))
    assert said
    row, begin = map(int, said.groups())
    assert begin <= row < begin + 6
    with pytest.raises(UserError, match="every document of source 'a'"):
        Order(quarantined.with_mix(begin + 6, {"b": 1}), SOURCES)
    made = quarantined.with_mix(begin, {"b": 1})
    found = first_rows(made, 30)
    assert {g: one for g, one in found.items() if g < 6} == first_rows(plan(), 1)
    late = [one for g, one in found.items() if one.source == "a" and g >= 6]
    assert late and all(set(one.labels) == {-100} for one in late)
    assert {one.source for g, one in found.items() if g >= begin} == {"b"}


def test_a_simulation_refuses_what_a_loader_refuses(mixed: Path, tmp_path: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), row_tokens=24, batch_rows=6, weights={"short": 1, "prose": 1}, cache=cache)
    blocks = len(loader.order.source("short").blocks.tokens)
    made = loader.plan
    for block in range(blocks):
        made = made.with_quarantine(60, "short", block)
    made = made.with_mix(600, {"short": 1, "prose": 2})
    made.save(tmp_path / "plan.json")
    with pytest.raises(UserError, match="every document of source 'short' is in quarantine"):
        build_loader(str(mixed), plan=tmp_path / "plan.json", cache=cache)
    command = [sys.executable, "-m", "loader.simulate", str(tmp_path / "plan.json"), "--tokens", "1e6"]
    done = subprocess.run([*command, "--data", str(mixed)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and "every document of source 'short' is in quarantine" in done.stderr, done.stderr
    nan = subprocess.run([*command[:-1], "nan"], capture_output=True, text=True, check=False, timeout=120)
    assert nan.returncode == 2 and "Traceback" not in nan.stderr


# ---- ramps and caps


def mixed_rows(made: MixPlan, rows: int) -> list[tuple[str, int]]:
    """(source, ordinal) of the first rows, by the lattices."""
    found = []
    order = Order(made, SOURCES)
    for batch in made.batches(0):
        if batch.first_row >= rows:
            return found
        sources, ordinals = order.ordinals(batch)
        names = batch.stretch.sources
        found += [(names[s], o) for s, o in zip(sources.tolist(), ordinals.tolist(), strict=True)]
    raise AssertionError


def no_row_is_lost(found: list[tuple[str, int]]) -> bool:
    return all(
        [o for n, o in found if n == name] == list(range(sum(n == name for n, _ in found)))
        for name in {n for n, _ in found}
    )


def test_a_ramp_goes_from_one_mix_to_the_other_in_a_straight_line() -> None:
    made = plan_of(SOURCES, {"a": 1}, 8).with_ramp(800, 6400, {"a": 1, "b": 3}, stages=16, sources=IDENTITIES)
    found = mixed_rows(made, 9600)
    assert no_row_is_lost(found)
    for row in range(0, 9600, 400):
        share = sum(name == "b" for name, _ in found[row : row + 400]) / 400
        wanted = 0.75 * min(max((row + 200 - 800) / 6400, 0), 1)
        assert abs(share - wanted) < 0.02, f"from row {row}"
    assert made.source_names == ("a", "b")
    assert len(made.entries) == 2 and len(made.mixes) == 18


def test_a_ramp_is_ended_by_a_mix_and_takes_part_in_the_past() -> None:
    ramped = plan().with_ramp(60, 600, {"a": 9, "b": 1}, stages=10)
    ended = ramped.with_mix(300, {"a": 1})
    assert ended.prefix_digest(300) == ramped.prefix_digest(300) != plan().prefix_digest(300)
    assert mixed_rows(ended, 300) == mixed_rows(ramped, 300)
    assert {name for name, _ in mixed_rows(ended, 900)[300:]} == {"a"}
    grown = ramped.with_mix(300, batch_rows=12)  # stays at the shares of there
    assert grown.mixes[-1].lattice.weights == [one for one in ramped.mixes if one.first_row <= 300][-1].lattice.weights


@pytest.mark.parametrize("seed", range(20))
def test_a_cap_ends_a_source_before_it_begins_once_more(seed: int) -> None:
    dice = random.Random(seed)
    sources = {name: source(dice, name, 4, 4, 30) for name in "abc"}
    first = plan_of(sources, {name: dice.randint(1, 9) for name in "abc"}, dice.randint(1, 12))
    epochs = {"a": dice.randint(1, 3), "b": dice.randint(1, 5)}
    made = Order(first, sources).capped(epochs, row=0)
    assert loads(made.dumps(), "x") == made
    order = Order(made, sources)
    had = {name: order.source(name).stream.first_row(most) for name, most in epochs.items()}
    counts = dict.fromkeys(sources, 0)
    last: dict[str, int] = {}
    for batch in islice(made.batches(0), 3000):
        numbers, ordinals = order.ordinals(batch)
        for number, ordinal in zip(numbers.tolist(), ordinals.tolist(), strict=True):
            name = batch.stretch.sources[number]
            assert ordinal == counts[name]
            counts[name] += 1
            last[name] = batch.first_row
    for name, rows in had.items():
        assert rows - made.header.step_rows < counts[name] <= rows
    # Up to the first end, all is as it was without caps.
    until = min(last[name] for name in epochs)
    for one, other in zip(made.batches(0), first.batches(0), strict=False):
        if one.first_row >= until:
            break
        assert [part.tolist() for part in order.ordinals(one)] == [
            part.tolist() for part in Order(first, sources).ordinals(other)
        ]


def test_a_plan_is_saved_whole_and_a_changed_byte_is_refused(tmp_path: Path) -> None:
    made = plan().with_ramp(60, 600, {"a": 9, "b": 1}).with_quarantine(66, "b", 0, 1, "bad")
    made.save(tmp_path / "plan.json")
    made.save(str(tmp_path / "plan.json"))
    assert MixPlan.load(tmp_path / "plan.json") == MixPlan.load(str(tmp_path / "plan.json")) == made
    data = (tmp_path / "plan.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "plan.json").write_bytes(data.replace(b'"a":9', b'"a":8'))
    with pytest.raises(BambaError, match="sha256"):
        MixPlan.load(tmp_path / "plan.json")
    with pytest.raises(UserError, match="cannot be written"):
        made.save(tmp_path / "none" / "plan.json")


def test_a_plan_is_what_pydantic_dumps_of_it(mixed: Path, cache: Path) -> None:
    made = build_loader(str(mixed), row_tokens=24, batch_rows=6, cache=cache).plan.with_mix(12, {"code": 1})
    for given in (
        made.model_dump(),
        made.model_dump(mode="json"),
        made.model_dump_json(),
        made.dumps(),
        made.to_json(),
    ):
        assert build_loader(str(mixed), plan=given, cache=cache).plan == made


@pytest.mark.parametrize("seed", range(100))
def test_a_plan_that_grew_is_the_plan_that_was_read_and_loses_no_row(seed: int) -> None:
    """Entry by entry, or all at once: the same rows, and every source's rows in order from its first."""
    dice = random.Random(seed)
    names = "abcd"
    identities = dict.fromkeys(names, "x")
    first = {name: dice.randint(1, 9) for name in dice.sample(names, dice.randint(1, 4))}
    made = MixPlan.create(first, identities, dice.randint(1, 9), seed=seed, row_tokens=8, before=[], after=[])
    row, batch_rows = 0, made.header.step_rows
    for _ in range(dice.randint(1, 10)):
        row += dice.choice([0, 1, 2, 30]) * batch_rows
        weights = {name: dice.randint(0, 5) for name in names} | {dice.choice(names): 2}
        kind = dice.choice(["mix", "batch", "skip", "ramp", "cap"])
        try:
            if kind == "mix":
                made = made.with_mix(row, weights, sources=identities)
            elif kind == "batch":
                made = made.with_mix(row, batch_rows=dice.randint(1, 9))
                batch_rows = made.entries[-1].batch_rows  # type: ignore[union-attr]
            elif kind == "skip":
                made = made.with_skip(row, batch_rows)
                row += batch_rows
            elif kind == "ramp":
                made = made.with_ramp(row, dice.randint(1, 300), weights, dice.randint(1, 9), sources=identities)
            else:
                made = made.with_cap(row, dice.choice(sorted(made.sources)), dice.randint(1, 3), dice.randint(0, 200))
        except UserError as error:  # such as a skip over the next step of a ramp, or a cap on the last source
            assert "\n" not in str(error)
    read = loads(made.dumps(), "plan.json")
    assert read == made and (read.mixes, read.stretches) == (made.mixes, made.stretches)
    assert [one.end for one in made.mixes[:-1]] == [one.first_row for one in made.mixes[1:]]
    counts: dict[str, int] = {}
    for mix in made.mixes:
        rows = np.arange(mix.first_row, min(mix.end, mix.first_row + 2000))
        sources, ordinals = mix.lattice.sources(rows), mix.lattice.ordinals(rows)
        for number, name in enumerate(mix.sources):
            mine = ordinals[sources == number].tolist()
            assert mine == list(range(counts.get(name, 0), counts.get(name, 0) + len(mine)))
            counts[name] = counts.get(name, 0) + len(mine)
        if mix.end - mix.first_row > 2000:
            break
    else:
        raise AssertionError("the last mix has an end")
