"""Ranks that each hold the model share its update: rows of a matrix are one rank's to update, and all have all rows."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from bamba_data.errors import RecipeError, UserError
from tests.trainer.learners import HALF
from tests.trainer.running import job, losses, newest_folder
from trainer.config import load_recipe
from trainer.distributed.fsdp import World
from trainer.distributed.peer_copies import decided, place_of
from trainer.distributed.row_shares import own_rows
from trainer.distributed.stream_signals import checked, has_driver

pytestmark = pytest.mark.slow

WHOLE = [*HALF, "schedule.steps=4", "checkpoints.every_steps=2", "compute.shard_ranks=1"]


@pytest.mark.parametrize(("ranks", "rows"), [(2, 6), (3, 6), (6, 6), (8, 4096)])
def test_every_row_is_one_ranks(world: World, ranks: int, rows: int) -> None:
    matrix = torch.zeros(rows, 2, dtype=torch.bfloat16)
    owners = torch.zeros(rows, dtype=torch.int64)
    for rank in range(ranks):
        mine = own_rows(matrix, World(rank, ranks, world.device, world.mesh))
        assert mine is not None
        owners[mine] += 1
    assert owners.eq(1).all()


def test_what_cannot_be_dealt_evenly_is_updated_whole_by_all_and_so_are_vectors(world: World) -> None:
    two = World(1, 2, world.device, world.mesh)
    assert own_rows(torch.zeros(3, 2, dtype=torch.bfloat16), two) is None
    assert own_rows(torch.zeros(4), two) is None
    assert own_rows(torch.zeros(4, 2, dtype=torch.bfloat16), World(0, 1, world.device, world.mesh)) is None


def test_copies_between_gpus_are_refused_where_there_are_none() -> None:
    assert decided("auto", 2, torch.device("cpu")) == "collectives"
    with pytest.raises(
        UserError, match=r"compute\.row_exchange: no copies .*: ranks compute on a CPU\. Set it to auto"
    ):
        decided("copies", 2, torch.device("cpu"))


def test_copies_want_the_package_by_which_streams_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "cuda", None)  # as where it is not installed
    assert not has_driver()
    assert decided("auto", 2, torch.device("cuda")) == "collectives"
    with pytest.raises(UserError, match="cuda-bindings is not there"):
        decided("copies", 2, torch.device("cuda"))


def test_a_driver_that_cannot_signal_so_is_told_with_the_way_out() -> None:
    checked((0,))
    with pytest.raises(
        UserError, match=r"row_exchange: .*driver does no stream memory .*: 801\. Set it to collectives"
    ):
        checked((801,))


def test_an_exchange_of_rows_that_nobody_would_make_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"compute\.row_exchange: copies is for ranks .* optimizer\.memory is full"):
        load_recipe("tiny-cpu", ["compute.row_exchange=copies"])


@pytest.mark.parametrize("ranks", range(2, 9))
def test_each_part_of_a_gradient_has_a_place_of_its_own_at_its_owner(ranks: int) -> None:
    """Of all matrices and all other ranks, and no place is left."""
    shares = (3, 1, 5)
    starts = [sum(shares[:number]) * ranks for number in range(len(shares))]  # among the weights
    for owner in range(ranks):
        taken = torch.zeros(sum(shares) * (ranks - 1), dtype=torch.int64)
        for start, share in zip(starts, shares, strict=True):
            first = start // ranks * (ranks - 1)
            for sender in set(range(ranks)) - {owner}:
                place = place_of(first, share, sender, owner, ranks)
                assert first <= place < first + share * (ranks - 1)
                taken[place : place + share] += 1
        assert taken.eq(1).all()


@pytest.mark.parametrize("micro_rows", [1, 6])
def test_what_two_ranks_saved_goes_on_with_one_and_with_three(tmp_path: Path, micro_rows: int) -> None:
    """Two deal all rows, three cannot, one has none to deal."""
    changes = [*WHOLE, f"compute.micro_rows={micro_rows}"]
    whole = tmp_path / "whole"
    done = job(whole, 2, *changes)
    assert done.returncode == 0, done.stderr
    for ranks in (1, 3):
        copy = tmp_path / f"by-{ranks}"
        shutil.copytree(whole, copy)
        shutil.rmtree(newest_folder(copy))
        (copy / "metrics.jsonl").unlink()
        done = job(copy, ranks, *changes)
        assert done.returncode == 0, done.stderr
        assert f"goes on after step 2 (saved by 2 ranks, now {ranks})" in done.stderr
        assert losses(copy)[4] == pytest.approx(losses(whole)[4], rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs of one host are needed")
@pytest.mark.parametrize("micro_rows", [1, 6])
def test_copies_from_gpu_to_gpu_leave_the_bits_that_collectives_leave(tmp_path: Path, micro_rows: int) -> None:
    """Of two ranks: a sum of two numbers in bfloat16 is the same wherever it is rounded."""
    bits = {}
    for how in ("copies", "collectives"):
        changes = [*WHOLE, f"compute.micro_rows={micro_rows}", f"compute.row_exchange={how}"]
        done = job(tmp_path / how, 2, *changes, env={"TRAINER_BITS": "1"})
        assert done.returncode == 0, done.stderr
        bits[how] = set(re.findall(r"bits of \d: (\w+)", done.stdout))
        assert len(bits[how]) == 1  # both ranks hold the same
    assert bits["copies"] == bits["collectives"]
    assert losses(tmp_path / "copies") == losses(tmp_path / "collectives")
