"""The learning rate of a step: a pure function of the recipe, so there is no state to save."""

import math

from ..config import Schedule


def learning_rate(schedule: Schedule, step: int) -> float:
    """For the update of `step`, counted from 1; `end_lr` from the last step on. The cosine is that of arXiv 1608.03983,
    without restarts."""
    return min(_warmup(schedule, step), _decay(schedule, min(step, schedule.steps)))


def warmup_steps(schedule: Schedule) -> int:
    """How long the warm-up is: as the recipe says, or what the published code takes where that would never end."""
    asked = schedule.warmup_steps
    return asked if asked < schedule.steps else min(2000, schedule.steps // 20)


def warmup_note(schedule: Schedule) -> str | None:
    """What to tell people of a warm-up that would never end; None for one that does."""
    taken = warmup_steps(schedule)
    if taken == schedule.warmup_steps:
        return None
    return (
        f"SHORTENED: the warm-up of {schedule.warmup_steps:,} steps would not end in {schedule.steps:,}; it takes "
        f"{taken:,}, min(2000, steps / 20), as the published code does. schedule.warmup_steps sets another"
    )


def _warmup(schedule: Schedule, step: int) -> float:
    steps = warmup_steps(schedule)
    if step >= steps:
        return schedule.peak_lr
    done = step / steps
    return schedule.peak_lr * (done if schedule.warmup == "linear" else 1 - (1 - done) ** 2)


def _decay(schedule: Schedule, step: int) -> float:
    done = step / schedule.steps
    if schedule.decay == "none":
        return schedule.peak_lr
    left = 1 - done if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return schedule.end_lr + (schedule.peak_lr - schedule.end_lr) * left
