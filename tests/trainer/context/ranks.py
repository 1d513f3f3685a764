"""What ranks compute of their parts of rows, left in a folder as tensors: `run` is one rank of `tests.forking`."""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import BambaError
from bamba_data.exit_codes import exit_code_of
from tests.forking import run_forked
from trainer.distributed.fsdp import World, joined

Found = dict[str, Tensor]


def computed(job: Callable[..., Found], ranks: int, *arguments: Any, context_ranks: int | None = None) -> list[Found]:
    """What `job(world, *arguments)` gives on each of `ranks`, of which all share rows, or so many."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "arguments")
        torch.save(arguments, given)
        words = [folder, job.__module__, job.__qualname__, str(context_ranks or ranks)]
        done = run_forked(run, words, ranks, {**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return [torch.load(Path(folder, str(rank)), weights_only=True) for rank in range(ranks)]


def part(rows: Tensor, world: World) -> Tensor:
    """This rank's tokens of (batch, tokens, …)."""
    return rows.chunk(world.context.ranks, 1)[world.context.rank]


def run(arguments: Sequence[str]) -> int:
    """A rank: the exit code."""
    folder, module, name, context_ranks = arguments
    warnings.simplefilter("error")
    __import__(module)
    job = getattr(sys.modules[module], name)
    given = torch.load(Path(folder, "arguments"), weights_only=True)
    try:
        with joined(int(context_ranks)) as world:
            torch.save(job(world, *given), Path(folder, str(world.rank)))
    except BambaError as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_code_of(error)
    return 0
