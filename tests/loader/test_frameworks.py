"""In each framework two ranks get the rows that a bare loop gets, through stops in a pass, at its end, and resumes.

The real libraries, in processes of their own (tests/loader/framework_jobs.py is what each rank runs).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from bamba_data.errors import UserError
from loader import build_loader
from tests.loader.framework_jobs import MIX

#: Steps at which a run is stopped and goes on in new processes: inside a pass of ten, at its end, in the third pass.
STOPS = (7, 10, 23)


def job(framework: str, dataset: Path, folder: Path, steps: int, *, resume: bool, ranks: int = 2) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "tests.loader.framework_jobs", framework, str(dataset), str(folder), str(steps)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        command + (["resume"] if resume else []),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def received(folder: Path, ranks: int = 2) -> list[list[dict[str, Any]]]:
    """What each rank wrote down."""
    files = (folder / f"rank-{rank}.jsonl" for rank in range(ranks))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def plain(lines: list[list[dict[str, Any]]]) -> list[list[tuple[Any, Any]]]:
    return [[(line["rows"], line["ids"]) for line in rank] for rank in lines]


@pytest.fixture(scope="module")
def wanted(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[Any, Any]]]:
    """The bare loop over as many passes, by rank."""
    folder = tmp_path_factory.mktemp("bare")
    job("bare", mixed, folder, STOPS[-1], resume=False)
    found = plain(received(folder))
    together = [sorted(a[0] + b[0]) for a, b in zip(*found, strict=True)]
    assert together == [list(range(6 * (step % 10), 6 * (step % 10) + 6)) for step in range(STOPS[-1])]
    return found


@pytest.mark.costly
@pytest.mark.parametrize("framework", ["accelerate", "accelerate_skips", "lightning", "transformers"])
def test_two_ranks_get_the_rows_of_the_bare_loop_through_stops_and_resumes(
    framework: str, mixed: Path, wanted: Any, tmp_path: Path
) -> None:
    for number, steps in enumerate(STOPS):
        job(framework, mixed, tmp_path, steps, resume=number > 0)
    assert plain(received(tmp_path)) == wanted
    if framework == "accelerate":
        # four batches a step, and what is left at the end of a pass of ten; a run that was stopped counts anew
        stepped = [line["stepped"] for line in received(tmp_path)[0]]
        assert [step % 10 for step, did in enumerate(stepped) if did][-4:] == [9, 3, 7, 9]
    if framework == "lightning":
        validated = (tmp_path / "validated-0.txt").read_text().split()
        assert len(validated) >= 3 and len(set(validated)) == 1 and int(validated[0]) > 0


def test_a_dataloader_that_accelerate_would_deal_out_again_is_refused(mixed: Path, tmp_path: Path) -> None:
    job("accelerate_wraps", mixed, tmp_path, 1, resume=False)
    assert "deal the rows of this rank out to all ranks" in (tmp_path / "refused.txt").read_text()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataloader_that_would_collect_batches_is_refused(mixed: Path, cache: Path, num_workers: int) -> None:
    dataset = build_loader(str(mixed), **MIX, max_steps=3, cache=cache).dataset
    with pytest.raises(UserError, match="batch_size=None"):
        next(iter(DataLoader(dataset, batch_size=2, num_workers=num_workers)))
    (first, *_) = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    assert first["input_ids"].shape == torch.Size([6, 24])
