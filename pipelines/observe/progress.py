"""How far a job is: workers report to an actor, the driver asks it for a snapshot."""

from collections import Counter
from dataclasses import dataclass, field

from .counters import Counters


@dataclass(slots=True)
class Snapshot:
    """Everything that a person or a dashboard asks of a running job.

    Attributes:
        planned: Units and input bytes of the whole job.
        counts: Done so far, by earlier attempts too (of those only units and input bytes).
        by_source: Of the finished units of each source.
        running: Units at work.
        cores: Of the cluster.
        retries: How often something was tried again, by cause.
        throttled_seconds: How long requests waited for the budget of their host.
        lines: For people, since the last snapshot.
    """

    planned: Counters = field(default_factory=Counters)
    counts: Counters = field(default_factory=Counters)
    by_source: dict[str, Counters] = field(default_factory=dict)
    units_failed: int = 0
    running: int = 0
    cores: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    throttled_seconds: float = 0.0
    lines: list[str] = field(default_factory=list)


class ProgressKeeper:
    """Runs as an actor. A unit's counts are replaced, not added, when it is tried again."""

    def __init__(self) -> None:
        self._running: dict[str, Counters] = {}
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._by_source: dict[str, Counters] = {}
        self._retries: Counter[str] = Counter()
        self._lines: list[str] = []
        self._nodes: dict[str, str] = {}

    def started(self, unit: str) -> None:
        self._running[unit] = Counters()

    def moved(self, unit: str, counts: Counters) -> None:
        if unit not in self._done:  # a last report may come after the end, which the driver tells
            self._running[unit] = self._running.get(unit, Counters()) + counts

    def ended(self, unit: str, exact: Counters | None) -> None:
        """`exact` is what the unit came to, None if it is given up."""
        self._running.pop(unit, None)
        self._nodes.pop(unit, None)
        if exact is None:
            self._failed.add(unit)
        elif unit not in self._done:
            self._done.add(unit)
            source = unit.partition("/")[0]
            self._by_source[source] = self._by_source.get(source, Counters()) + exact + Counters(units=1)

    def placed(self, unit: str, node: str) -> None:
        """It runs on this node."""
        self._nodes[unit] = node

    def place_of(self, unit: str) -> str | None:
        return self._nodes.get(unit)

    def remark(self, line: str) -> None:
        self._lines.append(line)

    def retried(self, cause: str) -> None:
        self._retries[cause] += 1

    def snapshot(self) -> Snapshot:
        # Lines are told once; a reply that is lost loses them, which costs a remark and no count.
        lines, self._lines = self._lines, []
        return Snapshot(
            counts=sum((*self._running.values(), *self._by_source.values()), Counters()),
            by_source=self._by_source,
            units_failed=len(self._failed),
            running=len(self._running),
            retries=dict(self._retries),
            lines=lines,
        )


class Unheard:
    """Takes the place of the keeper's handle for the second copy of a unit: the first one is counted already."""

    def __getattr__(self, name: str) -> "Unheard":
        if name.startswith("__"):  # pickle asks for __reduce__ and the like, and must not be given this
            raise AttributeError(name)
        return self

    def remote(self, *arguments: object) -> None:
        pass
