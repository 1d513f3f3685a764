"""What Prometheus can ask of a running job: the progress, through ray.util.metrics, at the port of the driver's node.

    ray_bamba_input_bytes_total  ray_bamba_text_bytes_total  ray_bamba_documents_total  ray_bamba_tokens_total
    ray_bamba_dead_letters_total ray_bamba_throttle_seconds_total                        of {recipe, phase}
    ray_bamba_retries_total{cause}     ray_bamba_source_tokens_total{source}             finished units only
    ray_bamba_units{outcome}           done, failed, running, waiting
    ray_bamba_input_bytes_planned      ray_bamba_cores

Few series, whatever the size of the job: no file, unit or worker is ever a label. Counters start at zero with every
attempt, as Prometheus expects; a unit that is tried again never takes one back.
"""

from typing import Any, Self

from .display import Display, DisplayAround
from .progress import Snapshot

COUNTERS = {
    "input_bytes": "Bytes of input consumed.",
    "text_bytes": "Bytes of text taken out of the input.",
    "documents": "Documents kept.",
    "tokens": "Tokens written.",
    "dead_letters": "Bad records.",
    "throttle_seconds": "Seconds that requests waited for the budget, or because a host asked for it.",
}
GAUGES = {
    "input_bytes_planned": "Bytes of input of the whole plan.",
    "cores": "CPU cores of the cluster.",
}


def exported(display: Display, recipe: str, phase: str, cluster: str | None) -> Display:
    """The display of a job, which also exports what it is shown if a `cluster` is joined: nobody asks a Ray that lives
    for one job, and its first metric costs the imports of OpenTelemetry."""
    return Exporting(display, recipe, phase) if cluster else display


class Exporting(DisplayAround):
    """Also exports what it is shown. To be entered when Ray is connected."""

    def __init__(self, display: Display, recipe: str, phase: str) -> None:
        super().__init__(display)
        self._tags = {"recipe": recipe, "phase": phase}
        self._exported: dict[tuple[str, ...], float] = {}

    def __enter__(self) -> Self:
        from ray.util.metrics import Counter, Gauge

        tags = tuple(self._tags)
        self._metrics: dict[str, Any] = {
            **{name: Counter(f"bamba_{name}", text, tags) for name, text in COUNTERS.items()},
            **{name: Gauge(f"bamba_{name}", text, tags) for name, text in GAUGES.items()},
            "retries": Counter("bamba_retries", "Requests, tasks and units tried again.", (*tags, "cause")),
            "source_tokens": Counter("bamba_source_tokens", "Tokens of finished units.", (*tags, "source")),
            "units": Gauge("bamba_units", "Units of the plan.", (*tags, "outcome")),
        }
        return super().__enter__()

    def show(self, snapshot: Snapshot) -> None:
        counts = snapshot.counts
        for name in ("input_bytes", "text_bytes", "documents", "tokens"):
            self._raise_to(getattr(counts, name), name)
        self._raise_to(counts.bad, "dead_letters")
        self._raise_to(snapshot.throttled_seconds, "throttle_seconds")
        for cause, count in snapshot.retries.items():
            self._raise_to(count, "retries", cause=cause)
        for source, of_source in snapshot.by_source.items():
            self._raise_to(of_source.tokens, "source_tokens", source=source)
        outcomes = {"done": counts.units, "failed": snapshot.units_failed, "running": snapshot.running}
        outcomes["waiting"] = max(0, snapshot.planned.units - sum(outcomes.values()))
        for outcome, units in outcomes.items():
            self._metrics["units"].set(units, {**self._tags, "outcome": outcome})
        self._metrics["input_bytes_planned"].set(snapshot.planned.input_bytes, self._tags)
        self._metrics["cores"].set(snapshot.cores, self._tags)
        super().show(snapshot)

    def _raise_to(self, value: float, name: str, **tags: str) -> None:
        """Bring a counter up to `value`; never down, so a rate is never negative."""
        key = (name, *tags.values())
        more = value - self._exported.get(key, 0)
        if more > 0:
            self._metrics[name].inc(more, {**self._tags, **tags})
            self._exported[key] = value
