"""A small model in this process with what takes its steps."""

from tests.trainer.job import RECIPE
from trainer.config import load_recipe
from trainer.distributed.fsdp import World
from trainer.model.bamba import Bamba
from trainer.optim.adamw import AdamW
from trainer.step import Stepper
from trainer.train import build

HALF = ["compute.dtype=bfloat16", "optimizer.memory=low"]


def learner(world: World, *changes: str) -> tuple[Bamba, AdamW, Stepper]:
    recipe = load_recipe(RECIPE, changes)
    model = build(recipe, world)
    optimizer = AdamW(model, recipe.optimizer, world)
    return model, optimizer, Stepper(model, optimizer, recipe.compute, world, 2)
