"""What ranks compute of their parts of rows, left in a folder as tensors: `run` is one rank of `tests.forking`."""

import os
import subprocess
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


def computed(
    job: Callable[..., Found],
    ranks: int,
    *arguments: Any,
    context_ranks: int | None = None,
    interpreted: bool = False,
) -> list[Found]:
    """What `job(world, *arguments)` gives on each of `ranks`, of which all share rows, or so many. `interpreted`: by
    the Triton kernels, in Triton's interpreter, which a process must be begun for."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "arguments")
        torch.save(arguments, given)
        words = [folder, job.__module__, job.__qualname__, str(context_ranks or ranks)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if interpreted:
            launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", __name__]
            command = [sys.executable, "-m", *launcher, *words]
            env["TRITON_INTERPRET"] = "1"
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
        else:
            done = run_forked(run, words, ranks, env)
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


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
