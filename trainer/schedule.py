"""The learning rate of a step: a pure function of the recipe, so there is no state to save."""

import math

from trainer.recipe import Schedule


def learning_rate(schedule: Schedule, step: int) -> float:
    """For the update of `step`, counted from 1; `end_lr` from the last step on."""
    return min(_warmup(schedule, step), _decay(schedule, min(step, schedule.steps)))


def _warmup(schedule: Schedule, step: int) -> float:
    if step >= schedule.warmup_steps:
        return schedule.peak_lr
    done = step / schedule.warmup_steps
    return schedule.peak_lr * (done if schedule.warmup == "linear" else 1 - (1 - done) ** 2)


def _decay(schedule: Schedule, step: int) -> float:
    done = step / schedule.steps
    if schedule.decay == "none":
        return schedule.peak_lr
    left = 1 - done if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return schedule.end_lr + (schedule.peak_lr - schedule.end_lr) * left
