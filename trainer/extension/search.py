"""A search of rotary factors: evolution of lists that do not fall, the objective any function of them.

    found = search(objective, seeds, first_free=23, most=5.0, evaluations=200, seed=1)

As LongRoPE searches (arXiv 2402.13753, section 3.2 and algorithm 1): it begins with the methods that are known, keeps
the best as parents, mutates and crosses them, and a lower frequency is never divided by less than a higher one. Only
the pairs from `first_free` on change: what turned all the way round within the trained length was seen at every
angle. A changed factor is drawn around its parent's, where the paper draws it anew: so few evaluations are for small
steps.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Factors = tuple[float, ...]

PARENTS, CHILDREN = 6, 12  # of a generation; a third of the children are crossed, the others mutated
CHANGED = 0.3  # of the free factors of a mutated child, as in the paper
DEVIATION = 0.25  # of the logarithm of a factor that changes


@dataclass(frozen=True, slots=True)
class Found:
    """`losses`: the best so far after each evaluation, which never rises."""

    factors: Factors
    loss: float
    losses: tuple[float, ...]


def search(
    objective: Callable[[Factors], float],
    seeds: Sequence[Factors],
    first_free: int,
    most: float,
    evaluations: int,
    seed: int,
    parents: int = PARENTS,
    children: int = CHILDREN,
) -> Found:
    """The best list that was evaluated, among them each of `seeds`; the same for the same arguments.

    Args:
        objective: The lower the better; one that is no number counts as infinite.
        seeds: Lists of equal length, none falling; the same one twice is evaluated once.
        first_free: The factors before it stay as a parent has them.
        most: No free factor grows beyond it.
        evaluations: So many calls of `objective` at most, at least one for each seed.
    """
    drawn = random.Random(seed)
    known: dict[Factors, float] = {}
    losses: list[float] = []

    def see(factors: Factors) -> None:
        if factors in known or len(known) >= evaluations:
            return
        loss = objective(factors)
        known[factors] = loss if math.isfinite(loss) else math.inf
        losses.append(min(known.values()))

    for one in seeds:
        see(rounded(one))
    idle = 0  # generations of which nothing was new
    while len(known) < evaluations and first_free < len(seeds[0]) and idle < 20:
        before = len(known)
        best = sorted(known, key=lambda factors: (known[factors], factors))[:parents]
        for number in range(children):
            first, second = drawn.choice(best), drawn.choice(best)
            crossed = number % 3 == 2
            see(_crossed(first, second, first_free, drawn) if crossed else _mutated(first, first_free, most, drawn))
        idle = idle + 1 if len(known) == before else 0
    winner = min(known, key=lambda factors: (known[factors], factors))
    return Found(winner, known[winner], tuple(losses))


def rounded(factors: Sequence[float]) -> Factors:
    """To four digits after the point: what a config states is what was measured."""
    return tuple(round(factor, 4) for factor in factors)


def _mutated(parent: Factors, first_free: int, most: float, drawn: random.Random) -> Factors:
    """Some free factors drawn anew around the parent's; in order again, none below the last one that is not free."""
    least = parent[first_free - 1] if first_free else 1.0
    free = list(parent[first_free:])
    for at in range(len(free)):
        if drawn.random() < CHANGED:
            free[at] *= math.exp(drawn.gauss(0, DEVIATION))
    return _whole(parent, first_free, [min(max(factor, least), most) for factor in free])


def _crossed(first: Factors, second: Factors, first_free: int, drawn: random.Random) -> Factors:
    """Each free factor of the one or the other, raised to the fixed ones of `first` where it would fall."""
    least = first[first_free - 1] if first_free else 1.0
    pairs = zip(first[first_free:], second[first_free:], strict=True)
    return _whole(first, first_free, [max(pair[drawn.random() < 0.5], least) for pair in pairs])


def _whole(parent: Factors, first_free: int, free: list[float]) -> Factors:
    return rounded([*parent[:first_free], *sorted(free)])
