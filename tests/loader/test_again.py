"""A loader is read once or again, as it was said; and what it has handed out is what its state counts."""

import itertools
import json
import logging
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from bamba_data.errors import UserError
from loader import Loader, Reading, TokenDataset, build_loader
from loader.collate import FIELDS
from tests.loader.real import all_rows, rows_of, size_of

MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 6, "seed": 3, "prefetch_tokens": 400}


def made(data: Path, cache: Path, **more: Any) -> Loader:
    return build_loader(str(data), **MIX | {"cache": cache} | more)


def firsts(batches: Any) -> list[int]:
    return [int(batch["row"][0]) for batch in batches]


# ---- passes


def test_it_is_a_dataloader_of_an_iterable_dataset(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, max_steps=9)
    assert isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    assert len(loader) == len(loader.dataset) == 9
    again = DataLoader(loader.dataset, batch_size=None)
    assert firsts(again) == firsts(loader.dataset) == firsts(loader) == list(range(0, 54, 6))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("on_end", [None, "again"])
def test_every_finite_loader_can_be_read_three_times(
    mixed: Path, cache: Path, num_workers: int, on_end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for more in ({"split": "holdout"}, {"max_steps": 9}, {"max_epochs": 1}, {"max_epochs": 1, "at_end": "all"}):
        loader = made(mixed, cache, num_workers=num_workers, on_end=on_end, **more)
        passes = [[batch["labels"].tolist() for batch in loader] for _ in range(3)]
        assert len(passes[0]) == len(loader) > 0
        assert passes[0] == passes[1] == passes[2]
    assert not caplog.records


def test_stop_is_one_pass_in_pieces_and_says_when_nothing_is_left(
    mixed: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = made(mixed, cache, max_steps=9, on_end="stop")
    assert firsts(itertools.islice(loader, 4)) == [0, 6, 12, 18]
    assert firsts(loader) == [24, 30, 36, 42, 48]
    assert not caplog.records
    assert firsts(loader) == [] and firsts(loader) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "nothing left after 9 batches" in caplog.text


def test_raise_is_one_pass_and_an_error_after_it(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, max_steps=9, on_end="raise")
    assert len(list(loader)) == 9
    with pytest.raises(UserError, match="read to its end, after 9 batches"):
        list(loader)


def test_a_pass_that_was_left_begins_anew_as_a_dataloaders_does(
    mixed: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What validation does: two batches to see that all is well, then all of them, several times."""
    loader = made(mixed, cache, max_steps=9, on_end="again")
    counts = [len(list(itertools.islice(loader, 2)))] + [len(list(loader)) for _ in range(3)]
    assert counts == [2, 9, 9, 9] and not caplog.records
    loader = made(mixed, cache, max_steps=9)  # nothing was said: then it is said what happens
    assert [len(list(itertools.islice(loader, 2))), len(list(loader))] == [2, 9]
    assert "left at row 12" in caplog.text and "on_end='stop'" in caplog.text


def test_without_an_end_every_loop_goes_on(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache)
    assert firsts(itertools.islice(loader, 2)) == [0, 6]
    assert firsts(itertools.islice(loader, 2)) == [12, 18]
    assert next(loader)["row"][0] == 24


@pytest.mark.parametrize(
    ("on_end", "lengths"), [(None, [0, 9, 9]), ("again", [9, 9, 9]), ("stop", [0, 0, 0]), ("raise", None)]
)
def test_a_state_of_a_finished_pass(mixed: Path, cache: Path, on_end: Any, lengths: Any) -> None:
    """A run that is over stays over when its job is started again; an epoch that is over is followed by another."""
    loader = made(mixed, cache, max_steps=9)
    list(loader)
    resumed = made(mixed, cache, max_steps=9, on_end=on_end)
    resumed.load_state_dict(loader.state_dict())
    if lengths is None:
        with pytest.raises(UserError, match="read to its end"):
            list(resumed)
    else:
        assert [len(list(resumed)) for _ in range(3)] == lengths


@pytest.mark.parametrize("on_end", [None, "again", "stop", "raise"])
def test_a_state_inside_a_pass_goes_on_there(mixed: Path, cache: Path, on_end: Any) -> None:
    loader = made(mixed, cache, max_steps=9)
    next(loader), next(loader)
    resumed = made(mixed, cache, max_steps=9, on_end=on_end)
    resumed.load_state_dict(loader.state_dict())
    assert firsts(resumed) == list(range(12, 54, 6))


# ---- plan and cursor in one


def test_the_state_is_all_that_a_fresh_loader_needs(mixed: Path, cache: Path) -> None:
    one = made(mixed, cache, weights={"code": 1})
    next(one), next(one)
    new = {name: blocks.identity for name, blocks in one.order.available.items()}
    one = one.with_plan(one.plan.with_mix(12, {"code": 1, "short": 1}, sources=new).with_skip(18, 6))
    next(one)
    state = json.loads(json.dumps(one.state_dict()))
    other = made(mixed, cache, weights={"code": 1}, rank=1, world_size=2)  # what the run was started with
    other.load_state_dict(state)
    assert other.plan == one.plan
    wanted, found = next(one), next(other)
    names = list(one.plan.source_names)
    assert wanted["row"].tolist() == list(range(24, 30))
    mine = rows_of(found, names)
    assert mine and all(rows_of(wanted, names)[g] == row for g, row in mine.items())
    assert size_of({**state, "plan": ""}) < 1024


def test_a_plan_that_was_given_stays(mixed: Path, cache: Path) -> None:
    one = made(mixed, cache)
    next(one)
    longer = one.plan.with_mix(60, {"code": 1})
    other = build_loader(str(mixed), plan=longer, cache=cache)
    other.load_state_dict(one.state_dict())
    assert other.plan == longer
    shorter = build_loader(str(mixed), plan=one.plan, cache=cache)
    shorter.load_state_dict(other.state_dict())
    assert shorter.plan == one.plan


def test_a_state_without_a_plan_is_read_as_before(mixed: Path, cache: Path) -> None:
    one = made(mixed, cache)
    next(one)
    old = {name: one.state_dict()[name] for name in ("format", "row", "steps", "prefix")}
    other = made(mixed, cache)
    other.load_state_dict(old)
    assert next(other)["row"][0] == 6


def test_a_plan_may_be_edited_at_row_0_before_anything_is_served(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache)
    edited = loader.with_plan(loader.plan.with_quarantine(0, "prose", 1).with_mix(0, {"code": 1}))
    assert set(next(edited)["source"].tolist()) == {edited.plan.source_names.index("code")}
    next(loader)
    with pytest.raises(UserError, match="another order"):
        loader.with_plan(loader.plan.with_quarantine(0, "prose", 1))


def test_a_source_that_joins_changes_no_number(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, weights={"prose": 1, "short": 1})
    assert loader.plan.source_names == ("prose", "short")
    new = {name: blocks.identity for name, blocks in loader.order.available.items()}
    joined = loader.with_plan(loader.plan.with_mix(12, {"code": 1, "short": 1, "prose": 1}, sources=new))
    assert joined.plan.source_names == ("prose", "short", "code")
    for one, other in zip(itertools.islice(loader, 2), joined, strict=False):
        assert one["source"].tolist() == other["source"].tolist()
        assert one["input_ids"].tolist() == other["input_ids"].tolist()
    assert set(next(joined)["source"].tolist()) == {0, 1, 2}


# ---- micro-batches


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("micro_rows", [1, 2, 4])
def test_micro_batches_are_the_batch_in_equal_pieces(
    mixed: Path, cache: Path, world_size: int, micro_rows: int
) -> None:
    more = {"fields": FIELDS, "max_steps": 5}
    names = list(made(mixed, cache).plan.source_names)
    wanted = all_rows(made(mixed, cache, **more), names)
    parts, counts = [], set()
    for rank in range(world_size):
        loader = made(mixed, cache, rank=rank, world_size=world_size, micro_rows=micro_rows, **more)
        mine = list(loader)
        assert len(mine) == len(loader) == len(loader.dataset)
        assert {batch["input_ids"].shape for batch in mine} == {(micro_rows, 24)}
        for batch in mine:
            assert batch["cu_seqlens"][-1] == micro_rows * 24
        counts.add(len(mine))
        parts += mine
        other = [batch["row"].tolist() for batch in DataLoader(loader.dataset, batch_size=None, num_workers=2)]
        assert other == [batch["row"].tolist() for batch in mine]
    assert len(counts) == 1
    assert all_rows(parts, names) == wanted


def test_a_state_inside_a_batch_goes_on_with_its_next_micro_batch(mixed: Path, cache: Path) -> None:
    wanted = firsts(made(mixed, cache, micro_rows=2, max_steps=5))
    assert wanted[:4] == [0, 2, 4, 6]
    for received in range(len(wanted) + 1):
        loader = made(mixed, cache, micro_rows=2, max_steps=5)
        for _ in range(received):
            next(loader)
        state = loader.state_dict()
        assert (state["row"], state["steps"]) == (received // 3 * 6, received // 3)
        assert state["micro"] == (f"{received % 3} of 2 rows, 1 ranks" if received % 3 else "")
        for resumed in (made(mixed, cache, micro_rows=2, max_steps=5), pickle.loads(pickle.dumps(loader))):
            resumed.load_state_dict(state)
            assert firsts(resumed) == wanted[received:]
        dataset = loader.dataset
        assert firsts(dataset.resumed(dataset.state(received))) == wanted[received:]


def test_a_state_inside_a_batch_is_refused_by_other_micro_batches(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, micro_rows=2)
    next(loader)
    for more in ({"micro_rows": 3}, {}, {"micro_rows": 2, "world_size": 2}):
        with pytest.raises(UserError, match=r"after 1 micro-batches of 2 rows, 1 ranks"):
            made(mixed, cache, **more).load_state_dict(loader.state_dict())
    next(loader), next(loader)
    other = made(mixed, cache, micro_rows=3)
    other.load_state_dict(loader.state_dict())
    assert next(other)["row"].tolist() == [6, 7, 8]


# ---- arguments that cannot be, in one line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rank": "0"}, "rank is '0', a str: it must be a whole number"),
        ({"rank": -1}, "rank is -1: it must be 0 or more"),
        ({"rank": 2, "world_size": 2}, "no rank 2 of 2"),
        ({"world_size": 0}, "world_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"num_workers": 1.5}, "num_workers is 1.5, a float"),
        ({"weights": {}}, "weights are {}"),
        ({"window_rows": 0}, "window_rows is 0"),
        ({"window_rows": -5}, "window_rows is -5"),
        ({"row_tokens": 0}, "row_tokens is 0"),
        ({"batch_rows": -6}, "batch_rows is -6"),
        ({"batch_rows": True}, "batch_rows is True"),
        ({"seed": -1}, "seed is -1"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"micro_rows": 0}, "micro_rows is 0"),
        ({"prefetch_tokens": 0}, "prefetch_tokens is 0"),
        ({"cache_bytes": -1}, "cache_bytes is -1"),
        ({"holdout": -0.1}, "holdout is -0.1: it can be between 0 and 0.5"),
        ({"holdout": "many"}, "holdout is 'many'"),
        ({"eos_id": -2}, "id -2 is beyond the vocabulary"),
        ({"on_end": "repeat"}, "on_end is 'repeat'"),
        ({"packing": "tetris"}, "tetris"),
        ({"plan": 5}, "plan is a int"),
        ({"plan": {"a": float("nan")}}, "the plan is no JSON"),
        ({"weights": ["code"]}, "weights are ['code']"),
        ({"fields": "input_ids"}, "fields are 'input_ids'"),
        ({"shuffle": "no"}, "shuffle is 'no': it must be True or False"),
        ({"pad_rows": 1}, "pad_rows is 1: it must be True or False"),
        ({"packing": 3}, "packing is 3"),
        ({"delimiters": ["eos"]}, "delimiters is ['eos']"),
        ({"transform": 3}, "transform is 3"),
        ({"max_epochs": 10**30}, "beyond row 2**62"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_is_refused_in_one_line(mixed: Path, cache: Path, more: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        made(mixed, cache, **more)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [None, "x", {}, [1]])
def test_what_is_no_state_is_refused(mixed: Path, cache: Path, state: Any) -> None:
    with pytest.raises(UserError, match="no state of a loader"):
        made(mixed, cache).load_state_dict(state)
    with pytest.raises(UserError, match="the data is None"):
        build_loader(None, cache=cache)  # type: ignore[arg-type]


def test_numbers_of_numpy_and_paths_are_what_they_say(mixed: Path, cache: Path) -> None:
    import numpy as np

    counts = {name: np.int64(MIX[name]) for name in ("row_tokens", "batch_rows", "seed")}
    one = build_loader(
        mixed, cache=str(cache), rank=np.int64(0), world_size=np.int32(1), max_steps=np.int64(3), **counts
    )
    assert firsts(one) == firsts(made(mixed, cache, max_steps=3))
    assert one.plan == made(mixed, cache).plan
    longer = one.plan.with_mix(np.int64(12), {"code": np.float64(0.5), "prose": np.int32(1)}, np.int64(12))
    assert json.loads(longer.dumps())["entries"][1]["weights"] == {"code": 1, "prose": 2}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"seed": 4}, "seed is 4, and the plan that is given has 3"),
        ({"row_tokens": 32}, "row_tokens is 32, and the plan that is given has 24"),
        ({"batch_rows": 7}, "batch_rows is 7, and the plan that is given has 6"),
        ({"packing": "best-fit"}, "packing is 'best-fit', and the plan that is given has 'chunk'"),
        ({"window_rows": 9}, "window_rows is 9, and the plan that is given has 52224"),
        ({"shuffle": False}, "shuffle is False, and the plan that is given has True"),
        ({"holdout": 0.001}, "holdout is 0.001, and the plan that is given has 0.0005"),
        ({"weights": {"code": 1}}, "weights is {'code': 1}, and the plan that is given has {'code':"),
        ({"delimiters": "none"}, "delimiters is '[] before and [] after'"),
        ({"eos_id": 5}, "[5] after"),
    ],
    ids=str,
)
def test_an_argument_that_contradicts_the_plan_is_refused_with_both_named(
    mixed: Path, cache: Path, more: Any, said: str
) -> None:
    plan = made(mixed, cache).plan
    with pytest.raises(UserError) as caught:
        build_loader(str(mixed), plan=plan, cache=cache, **more)
    assert said in str(caught.value)


def test_arguments_that_say_what_the_plan_says_are_no_contradiction(mixed: Path, cache: Path) -> None:
    plan = made(mixed, cache, weights={"code": 2, "prose": 1}).plan.with_mix(12, {"code": 1}, 12)
    for more in ({**MIX, "weights": {"code": 0.2, "prose": 0.1}}, {"batch_rows": 12, "weights": {"code": 5}}):
        assert build_loader(str(mixed), plan=plan, cache=cache, **more).plan == plan


# ---- interrupts, forks, threads


INTERRUPTED = """
    import signal, sys
    from loader import build_loader
    def interrupt(*_):
        raise KeyboardInterrupt
    data, cache, threads = sys.argv[1:]
    loader = build_loader(data, row_tokens=24, batch_rows=6, seed=3, prefetch_tokens=400, num_workers=int(threads),
                          cache=cache, max_steps=500, on_end="stop")
    signal.signal(signal.SIGALRM, interrupt)
    found, interrupted = [], 0
    while len(found) < 500:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.007 * (interrupted % 29))
            for batch in loader:
                found.append(int(batch["row"][0]))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
            # The signal may come in this loop, between the batch and its place in the list: that is not the loader's.
            counted = loader.state_dict()["steps"]
            assert counted - len(found) in (0, 1), (counted, len(found))
            if counted > len(found):
                found.append(6 * (counted - 1))
    assert found == list(range(0, 3000, 6))
    print(interrupted)
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_interrupt_loses_a_batch_that_the_state_counts(mixed: Path, cache: Path, num_workers: int) -> None:
    """A signal at any time, whose handler raises as Ctrl-C does."""
    assert int(elsewhere(INTERRUPTED, mixed, cache, num_workers)) >= 3


def elsewhere(code: str, *arguments: Any) -> str:
    """What a process of its own says."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_error_of_the_transform_in_the_dataset_names_it(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, transform=lambda batch: batch["row"], max_steps=3)
    assert [rows.tolist()[0] for rows in loader.dataset] == [0, 6, 12]
    assert [rows.tolist()[0] for rows in DataLoader(loader.dataset, batch_size=None, num_workers=2)] == [0, 6, 12]


def test_a_loader_that_was_read_from_may_be_used_in_a_fork(mixed: Path, cache: Path) -> None:
    code = """
        import os, sys
        from loader import build_loader
        loader = build_loader(sys.argv[1], row_tokens=24, batch_rows=6, seed=3, cache=sys.argv[2], num_workers=2)
        for _ in range(5): next(loader)
        child = os.fork()
        rows = [int(next(loader)["row"][0]) for _ in range(5)]
        assert rows == [30, 36, 42, 48, 54], rows
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            loader.close()
            print("both")
        else:
            loader.close()
            os._exit(0)
    """
    assert elsewhere(code, mixed, cache) == "both\n"


def test_a_pickled_loader_goes_on_where_it_was(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache)
    next(loader)
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.plan == loader.plan and copy.state_dict() == loader.state_dict()
    assert torch.equal(next(copy)["input_ids"], next(loader)["input_ids"])


# ---- torchdata


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.set_vital")
def test_a_stateful_dataloader_saved_at_its_end_goes_on_with_a_whole_epoch(
    mixed: Path, cache: Path, num_workers: int
) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    order = made(mixed, cache).order

    def fresh(state: Any = None) -> Any:
        dataset = TokenDataset(order, Reading(cache=cache, max_steps=9))
        loader = StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers)
        if state is not None:
            loader.load_state_dict(state)
        return loader

    one = fresh()
    assert len(list(one)) == 9
    ended = fresh(one.state_dict())
    assert [len(list(ended)) for _ in range(3)] == [9, 9, 9]
    half = fresh()
    for _ in zip(range(4), half, strict=False):
        pass
    resumed = fresh(half.state_dict())
    assert [len(list(resumed)) for _ in range(3)] == [5, 9, 9]
    untouched = fresh(fresh(half.state_dict()).state_dict())
    assert len(list(untouched)) == 5


# ---- far ahead, at once


def test_a_place_far_ahead_is_found_at_once(mixed: Path, cache: Path) -> None:
    dataset = TokenDataset(made(mixed, cache).order, Reading(cache=cache))
    began = time.process_time()
    state = dataset.state(10**9)
    assert state["row"] == 6 * 10**9 and state["steps"] == 10**9
    assert next(iter(dataset.resumed(state)))["row"][0] == 6 * 10**9
    assert time.process_time() - began < 5  # one by one it would be some hours


def test_eight_hundred_changes_of_the_mix_are_eight_hundred_times_one(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, weights={"code": 1, "prose": 1})
    plan, began, seconds = loader.plan, time.process_time(), []
    for number in range(1, 801):
        plan = plan.with_mix(6 * number, {"code": 1 + number % 7, "prose": 3})
        if number in (400, 800):
            seconds.append(time.process_time() - began)
    assert len(plan.mixes) == 801
    assert seconds[1] < 4 * seconds[0], "an entry at the end of a long plan costs more than one of a short plan"
    assert type(plan).model_validate(plan.model_dump()).mixes == plan.mixes


@pytest.mark.parametrize("state", [{}, {"taken": 0}, {"start": None, "taken": 0}])
def test_the_state_of_a_worker_that_is_none_is_refused_with_words(
    mixed: Path, cache: Path, state: dict[str, object]
) -> None:
    with pytest.raises(UserError):
        made(mixed, cache).dataset.load_state_dict(state)
