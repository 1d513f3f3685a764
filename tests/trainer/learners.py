"""A small model in this process with what takes its steps."""

from tests.trainer.job import RECIPE
from trainer.model.bamba import Bamba
from trainer.optimizer import AdamW
from trainer.parallel import World
from trainer.recipe import load_recipe
from trainer.run import build
from trainer.step import Stepper

HALF = ["compute.dtype=bfloat16", "optimizer.memory=low"]


def learner(world: World, *changes: str) -> tuple[Bamba, AdamW, Stepper]:
    recipe = load_recipe(RECIPE, changes)
    model = build(recipe, world)
    optimizer = AdamW(model, recipe.optimizer, world)
    return model, optimizer, Stepper(model, optimizer, recipe.compute, world, 2)
