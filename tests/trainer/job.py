"""A training run on synthetic rows as a real process: `python -m tests.trainer.job OUT [A.B=VALUE …]`, alone or by
torchrun. The environment can make it meet trouble:

    TRAINER_NAN=<step>       the losses of that step are no numbers, on the last rank
    TRAINER_SPIKE=<batch>,…  those batches of the order and the ones after them are worth eight times their loss
    TRAINER_SLOW=<seconds>   every batch takes so long to come
    TRAINER_LATE=<seconds>   the same on the last rank only
    TRAINER_START=<seconds>  it takes so long to find the place in the data, before the first step
    TRAINER_SEED=<seed>      on the last rank only: another recipe than the others have
    TRAINER_PLACE=<step>     on the last rank only: another place in the data than the others have
    TRAINER_FAULT=<step>     on the last rank only: the data of that step is damaged
    TRAINER_SHARED=<ranks>   on the last rank only: so many share rows
    TRAINER_WHOLE=1          the feed deals whole rows to all ranks, whoever shares them
    TRAINER_FILE_BYTES=<n>   no file takes more, as by `ulimit -f`
    TRAINER_BITS=1           every rank prints the digest of what it holds at the end, moments of own rows left out
    TRAINER_KILL=<point>     the last rank is gone at that point of its storage (tests.faults.crash_points)
"""

import hashlib
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import BambaError, CorruptShard
from bamba_data.exit_codes import exit_code_of
from tests.faults.crash_points import Killer
from tests.trainer.synthetic import Synthetic
from trainer.config import Recipe, load_recipe
from trainer.context.group import ContextGroup
from trainer.distributed.fsdp import World, joined, local
from trainer.train import Run

RECIPE = str(Path(__file__).parent / "synthetic.yaml")

#: What torch's compiler says of its own code where a job compiles, as each does on a GPU. The first when torch imports
#: it; the second torch hides whenever it looks at a tensor, but not where warnings are errors.
OF_THE_COMPILER = [
    (r"`torch\.jit\.script_method` is deprecated", DeprecationWarning),
    (r"The \.grad attribute of a Tensor that is not a leaf", UserWarning),
]


class Troubled(Synthetic):
    """Rows that take their time, or do not come."""

    def state_dict(self) -> dict[str, Any]:
        if self.steps == 0:
            time.sleep(float(os.environ.get("TRAINER_START", "0")))
        return super().state_dict()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        last = self.rank == self.world_size - 1
        for batch in super().__iter__():
            time.sleep(float(os.environ.get("TRAINER_SLOW", "0")))
            if last:
                time.sleep(float(os.environ.get("TRAINER_LATE", "0")))
            if last and self.steps == int(os.environ.get("TRAINER_FAULT", "-1")):
                raise CorruptShard("shard-00007.parquet", "block 3 is not what the manifest says")
            yield batch


def recipe_of(changes: Sequence[str]) -> Recipe:
    """The small one, with those of the words that change it."""
    return load_recipe(RECIPE, [change for change in changes if not change.startswith("--")])


def started(world: World, out: str, changes: list[str]) -> Run:
    """A run, not yet begun."""
    last = world.rank == world.size - 1
    if last and "TRAINER_SEED" in os.environ:
        changes = [*changes, f"seed={os.environ['TRAINER_SEED']}"]
    recipe = recipe_of(changes)
    data = recipe.data
    # what a feed gets that knows of no parts
    context = ContextGroup() if "TRAINER_WHOLE" in os.environ else world.context
    place = (world.data_rank, world.data_ranks) if context.ranks > 1 else (world.rank, world.size)
    feed = Troubled(data.row_tokens, data.batch_rows, *place, recipe.model.vocab_size, context)
    if last and "TRAINER_PLACE" in os.environ:
        feed.steps = int(os.environ["TRAINER_PLACE"])
    run = Run(recipe, feed, world, out, None if "://" in out else Path(out))
    poisoned = int(os.environ.get("TRAINER_NAN", "-1"))

    spiky = [int(at) + after for at in os.environ.get("TRAINER_SPIKE", "-2").split(",") for after in (0, 1)]

    def poison(module: Any, inputs: Any, losses: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        total, each = losses
        if feed.steps in spiky:
            return total, each * 8
        return (total * torch.nan, each) if feed.steps == poisoned and last else losses

    run.model.head.register_forward_hook(poison)
    return run


def main(out: str, changes: list[str]) -> None:
    if "TRAINER_FILE_BYTES" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["TRAINER_FILE_BYTES"]),) * 2)
    shared = recipe_of(changes).compute.context_ranks
    if os.environ.get("RANK") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
        shared = int(os.environ.get("TRAINER_SHARED", shared))
    with joined(shared) as world:
        run = started(world, out, changes)
        if world.rank == world.size - 1 and "TRAINER_KILL" in os.environ:
            Killer(int(os.environ["TRAINER_KILL"])).arm()
        try:
            run.begin(accept_changes="--accept-changes" in changes)
            run.train()
            if "TRAINER_BITS" in os.environ:
                own = {
                    f"optimizer.{moment}.{name}"
                    for moment in ("first", "second")
                    for name, rows in run.optimizer.rows.items()
                    if rows is not None
                }
                held = b"".join(
                    bytes(local(value).cpu().reshape(-1).view(torch.uint8).numpy())
                    for name, value in run.state().items()
                    if name not in own
                )
                os.write(1, f"bits of {world.rank}: {hashlib.sha256(held).hexdigest()}\n".encode())  # in one piece
        finally:
            run.close()


def run(arguments: Sequence[str]) -> int:
    """The exit code; an error that a user can meet is a line on stderr, and a warning is an error."""
    warnings.simplefilter("error")
    for message, category in OF_THE_COMPILER:
        warnings.filterwarnings("ignore", message, category, module=r"torch\.")
    try:
        main(arguments[0], list(arguments[1:]))
    except (BambaError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_code_of(error)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
