"""A training run on synthetic rows as a real process: `python -m tests.trainer.job OUT [A.B=VALUE …]`, alone or by
torchrun. The environment can make it meet trouble:

    TRAINER_NAN=<step>       the losses of that step are no numbers, on the last rank
    TRAINER_SPIKE=<batch>    that batch of the order and the next one are worth eight times their loss
    TRAINER_SLOW=<seconds>   every batch takes so long to come
    TRAINER_SEED=<seed>      on the last rank only: another recipe than the others have
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import BambaError
from tests.trainer.synthetic import Synthetic
from trainer.parallel import World, joined
from trainer.recipe import load_recipe
from trainer.run import Run

RECIPE = str(Path(__file__).parent / "synthetic.yaml")


class Troubled(Synthetic):
    """Rows that take their time."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in super().__iter__():
            time.sleep(float(os.environ.get("TRAINER_SLOW", "0")))
            yield batch


def started(world: World, out: str, changes: list[str]) -> Run:
    """A run, not yet begun."""
    last = world.rank == world.size - 1
    if last and "TRAINER_SEED" in os.environ:
        changes = [*changes, f"seed={os.environ['TRAINER_SEED']}"]
    recipe = load_recipe(RECIPE, [change for change in changes if not change.startswith("--")])
    data = recipe.data
    feed = Troubled(data.row_tokens, data.batch_rows, world.rank, world.size, recipe.model.vocab_size)
    run = Run(recipe, feed, world, out, None if "://" in out else Path(out))
    poisoned = int(os.environ.get("TRAINER_NAN", "-1"))

    spiky = int(os.environ.get("TRAINER_SPIKE", "-2"))

    def poison(module: Any, inputs: Any, losses: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        total, each = losses
        if feed.steps in (spiky, spiky + 1):
            return total, each * 8
        return (total * torch.nan, each) if feed.steps == poisoned and last else losses

    run.model.head.register_forward_hook(poison)
    return run


def main(out: str, changes: list[str]) -> None:
    with joined() as world:
        run = started(world, out, changes)
        try:
            run.begin(accept_changes="--accept-changes" in changes)
            run.train()
        finally:
            run.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except BambaError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
