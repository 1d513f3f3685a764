"""A run begins with what another one learned, and a recipe that nobody means is refused before it starts."""

from pathlib import Path

import pytest

from bamba_data.errors import UserError
from tests.trainer.job import RECIPE
from tests.trainer.running import losses
from tests.trainer.synthetic import Synthetic
from trainer.config import load_recipe
from trainer.data.vocabulary import vocabulary_note
from trainer.distributed.fsdp import World, local
from trainer.optim.lr_schedule import learning_rate, warmup_note
from trainer.train import Run, train

pytestmark = pytest.mark.slow

STABLE = ["schedule.decay=none", "schedule.warmup_steps=2", "checkpoints.every_steps=4", "seed=3"]


def feed(steps: int = 0) -> Synthetic:
    made = Synthetic(48, 6, 0, 1, 64)
    made.steps = steps
    return made


def learn(world: World, out: Path, steps: int, *changes: str, after: int = 0) -> None:
    recipe = load_recipe(RECIPE, [*STABLE, f"schedule.steps={steps}", *changes])
    train(recipe, feed(after), world, str(out), out, accept_changes=False)


@pytest.mark.costly
def test_stable_and_decay_by_two_recipes_learn_as_one_run_where_the_moments_are_kept(
    world: World, tmp_path: Path
) -> None:
    learn(world, tmp_path / "whole", 8)
    learn(world, tmp_path / "stable", 4)
    start = f"start_from={{run: {tmp_path / 'stable'}, optimizer: keep}}"
    learn(world, tmp_path / "kept", 4, start, "schedule.warmup_steps=0", after=4)
    fresh = f"start_from={tmp_path / 'stable'}"
    learn(world, tmp_path / "fresh", 4, fresh, "schedule.warmup_steps=0", after=4)
    whole, kept, anew = (losses(tmp_path / name) for name in ("whole", "kept", "fresh"))
    assert [kept[step] for step in range(1, 5)] == [whole[step + 4] for step in range(1, 5)]
    assert anew[1] == whole[5] and anew[4] != whole[8]


def test_the_count_of_updates_is_kept_with_the_moments(world: World, tmp_path: Path) -> None:
    learn(world, tmp_path / "stable", 4)
    found = {}
    for way in ("keep", "fresh"):
        recipe = load_recipe(RECIPE, [*STABLE, f"start_from={{run: {tmp_path / 'stable'}, optimizer: {way}}}"])
        run = Run(recipe, feed(), world, str(tmp_path / way), None)
        run.begin()
        moments = [int(local(value).count_nonzero()) for _, value in run.optimizer.state()]
        found[way] = (int(run.optimizer.updates), sum(moments) > 0)
        run.close()
    assert found == {"keep": (4, True), "fresh": (0, False)}


def test_a_warm_up_that_would_never_end_is_shortened_as_published_and_that_is_said() -> None:
    short = load_recipe("bamba-9b-phase1", ["schedule.steps=100"]).schedule
    assert learning_rate(short, 4) < learning_rate(short, 5) == pytest.approx(short.peak_lr, rel=0.01)
    assert "the warm-up of 2,000 steps would not end in 100; it takes 5" in str(warmup_note(short))
    whole = load_recipe("bamba-9b-phase1").schedule
    assert warmup_note(whole) is None
    assert learning_rate(whole, 1000) < learning_rate(whole, 2000)


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_refused_and_a_larger_one_is_said() -> None:
    with pytest.raises(UserError, match=r"vocab_size is 32,000, but the dataset's tokenizer has 50,280 ids: set it to"):
        vocabulary_note(32_000, 50_280)
    assert vocabulary_note(50_280, 50_280) is None
    assert "the last 8 rows of embedding and head are padding" in str(vocabulary_note(50_288, 50_280))
