"""How the runs of a dataset went and what they cost, for its page: from the record of every attempt in the store.

Core-hours are what the cluster held while units ran; beside them stands the part in which a unit was running.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bamba_data.storage.store import Store

from . import runs
from .runs import Status

MAX_RUNS = 20
MAX_ATTEMPTS = 50  # of a run, the newest
MAX_POINTS = 200  # of the curve of an attempt
MAX_CHARS = 4_000  # of a reason


@dataclass(frozen=True)
class Cost:
    """Of the attempts of one run, together. `money` is in the currency of the price, None without one."""

    attempts: int
    wall_hours: float
    core_hours: float
    unit_hours: float
    input_bytes: int
    shard_bytes: int
    tokens: int
    tokens_per_core_second: float
    money: float | None


def cost_of(attempts: Sequence[Status], price_per_core_hour: float | None = None) -> Cost:
    """An attempt counts what it moved itself: the first snapshot of a later one says what was done before it."""
    core_seconds = sum(attempt.core_seconds for attempt in attempts)
    moved = [_moved(attempt) for attempt in attempts]
    tokens = sum(tokens for _, tokens in moved)
    return Cost(
        attempts=len(attempts),
        wall_hours=sum(sum(attempt.phase_seconds.values()) for attempt in attempts) / 3600,
        core_hours=core_seconds / 3600,
        unit_hours=sum(attempt.unit_seconds for attempt in attempts) / 3600,
        input_bytes=sum(read for read, _ in moved),
        shard_bytes=max((attempt.shard_bytes for attempt in attempts), default=0),
        tokens=tokens,
        tokens_per_core_second=tokens / core_seconds if core_seconds else 0.0,
        money=None if price_per_core_hour is None else price_per_core_hour * core_seconds / 3600,
    )


def run_costs(store: Store, price_per_core_hour: float | None = None, currency: str = "$") -> list[dict[str, Any]]:
    """Every run on record at a place, the one that was written to last first, as JSON can say it.

    Args:
        store: The place.
        price_per_core_hour: For the cost; without it none is said.
        currency: Of that price.
    """
    by_run: dict[str, list[Status]] = {}
    for attempt in runs.attempts(store):
        by_run.setdefault(attempt.run, []).append(attempt)
    newest = list(itertools.islice(reversed(by_run.items()), MAX_RUNS))
    return [_run(name, attempts, cost_of(attempts, price_per_core_hour), currency) for name, attempts in newest]


def _run(name: str, attempts: Sequence[Status], cost: Cost, currency: str) -> dict[str, Any]:
    last = attempts[-1]
    return {
        "name": name,
        "recipe": last.recipe,
        "state": last.state,
        "reason": last.reason[:MAX_CHARS],
        "read_bytes": last.input_bytes_read,
        "total_bytes": last.input_bytes_total,
        "cost": asdict(cost),
        "currency": currency[:8],
        "attempts": [_attempt(attempt) for attempt in attempts[-MAX_ATTEMPTS:]],
    }


def _attempt(attempt: Status) -> dict[str, Any]:
    curve = attempt.curve
    step = -(-len(curve) // MAX_POINTS) or 1
    points = [*curve[:-1:step], *curve[-1:]]  # the last one always: it is where the attempt ended
    return {
        "started_at": attempt.started_at,
        "state": attempt.state,
        "exit_code": attempt.exit_code,
        "reason": attempt.reason[:MAX_CHARS],
        "units_done": attempt.units_done,
        "units_total": attempt.units_total,
        "units_failed": attempt.units_failed,
        "tokens": attempt.tokens,
        "cores": attempt.cores,
        "phase_seconds": attempt.phase_seconds,
        "retries": dict(sorted(attempt.retries.items())),
        "throttled_seconds": attempt.throttled_seconds,
        "total_bytes": attempt.input_bytes_total,
        "curve": [[point.seconds, point.input_bytes, point.tokens] for point in points],
    }


def _moved(attempt: Status) -> tuple[int, int]:
    """Input bytes and tokens of this attempt alone: its bytes start at what was finished before."""
    return (max(0, attempt.input_bytes - (attempt.points[0].input_bytes if attempt.points else 0)), attempt.tokens)
