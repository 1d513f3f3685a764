"""The script that shows what long rows are for: both models get the same tokens, and ranks may share the long rows."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.context_gain import KEYS, LONG, PIECES, least, row_of
from tests.forking import typed


def test_pieces_end_to_end_are_the_document_with_the_same_targets() -> None:
    for number in (0, 3):
        whole = row_of(number, 1)
        pieces = [row_of(number * PIECES + piece, PIECES) for piece in range(PIECES)]
        for name in ("input_ids", "labels"):
            assert torch.equal(torch.cat([piece[name] for piece in pieces]), whole[name])
        assert (whole["labels"][::2] >= KEYS).all() and (whole["labels"][1::2] == -100).all()
        answers: dict[int, int] = {}
        for key, value in zip(whole["input_ids"][::2].tolist(), whole["labels"][::2].tolist(), strict=True):
            assert answers.setdefault(key, value) == value
    assert not torch.equal(row_of(0, 1)["input_ids"], row_of(1, 1)["input_ids"])


def test_the_least_loss_falls_from_chance_and_begins_anew_with_each_piece() -> None:
    whole, pieces = least(1), least(PIECES)
    assert whole[0] == pytest.approx(math.log(16)) and (whole.diff() < 0).all() and whole[-1] < 0.01
    assert torch.equal(pieces.view(PIECES, -1), whole[: LONG // 2 // PIECES].expand(PIECES, -1))


@pytest.mark.costly
def test_ranks_that_share_the_long_rows_learn_the_same(tmp_path: Path) -> None:
    found = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        words = [out, "--context-ranks", ranks, "--set", "schedule.steps=5", "--set", "log.every_steps=1"]
        words += ["--set", "checkpoints.every_steps=1"]
        words += ["--picture", out / "curves.png"] if ranks == 2 else []
        done = typed("benchmarks.context_gain", *words, ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("|\n") == 10 and "| all |" in done.stdout
        lines = [json.loads(line) for line in (out / "whole" / "metrics.jsonl").read_text().splitlines()]
        found.append([line["loss"] for line in lines if "loss" in line])
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(found[0]) == 5 and found[1] == pytest.approx(found[0], rel=1e-4)
