"""A checkpoint is measured beside the steps of several ranks, and bits that did not come back are told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bamba_data.storage.store import LocalStore
from benchmarks import checkpoint_step
from benchmarks.checkpoint import read_past, write_past
from tests.forking import typed
from trainer.checkpoint.commits import folders
from trainer.checkpoint.direct import BLOCK_BYTES
from trainer.checkpoint.manager import Checkpointer
from trainer.config import load_recipe
from trainer.distributed.fsdp import World

TOLD = ["start", "memory", "disk before", "steps", "stall", "saved", "disk after", "loaded"]
QUICK = ["data.batch_rows=1", "data.row_tokens=32"]


def test_every_bit_counts_and_a_part_of_a_block_too() -> None:
    held = torch.zeros(BLOCK_BYTES + 3, dtype=torch.uint8)
    state = {"empty": torch.zeros(0), "one": torch.ones(()), "large": held}
    before = checkpoint_step.bits(state)
    assert checkpoint_step.bits({name: value.clone() for name, value in state.items()}) == before
    held[-1] = 1
    changed = checkpoint_step.bits(state)
    assert changed[:2] == before[:2] and changed[2] != before[2]


def test_what_is_written_past_the_cache_is_whole_blocks(tmp_path: Path) -> None:
    write_past(tmp_path / "past", 2 * BLOCK_BYTES + 5, 2)
    data = (tmp_path / "past").read_bytes()
    assert len(data) == 2 * BLOCK_BYTES and data[:BLOCK_BYTES] == data[BLOCK_BYTES:] and any(data)
    read_past(tmp_path / "past", 2)


@pytest.mark.slow
def test_a_bit_that_did_not_come_back_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, world: World
) -> None:
    restore = Checkpointer.restore

    def flipped(self: Checkpointer, state: dict[str, torch.Tensor], accept: Any) -> Any:
        commit = restore(self, state, accept)
        next(iter(state.values())).view(-1)[-1:].view(torch.uint8)[-1] ^= 1
        return commit

    monkeypatch.setattr(Checkpointer, "restore", flipped)
    assert not checkpoint_step.measure(load_recipe("tiny-cpu", QUICK), tmp_path, world, 0.1)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["same_bits"] is False


@pytest.mark.slow
def test_two_ranks_save_beside_their_steps_and_load(tmp_path: Path) -> None:
    command = ["benchmarks.checkpoint_step", "tiny-cpu", tmp_path, *QUICK, "--disk-gigabytes", 0.1]
    done = typed(*command, "--keep", ranks=2)
    assert done.returncode == 0, done.stderr
    lines = {line["told"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(lines) == TOLD
    assert lines["start"]["ranks"] == 2 and lines["loaded"]["same_bits"] is True
    (kept,) = folders(LocalStore(tmp_path / "checkpoint-step"))
    assert kept.whole and kept.size_bytes > lines["start"]["gigabytes"] * 1e9 > 39e6
    assert {"rank-00000.bin", "rank-00001.bin"} <= set(kept.files)
    done = typed(*command, ranks=2)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "checkpoint-step").exists()
