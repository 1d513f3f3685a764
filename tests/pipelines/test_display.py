"""What a person sees of a running build: lines that fit a terminal of 80 columns, nothing cut."""

import io

import pytest
from rich.console import Console

from pipelines.observe.counters import Counters
from pipelines.observe.display import Bars, told
from pipelines.observe.progress import Snapshot

GB = 10**9


def snapshot(share: float) -> Snapshot:
    done = Counters(
        input_bytes=int(share * 911 * GB),
        documents=int(share * 123_456_789),
        tokens=int(share * 250 * GB),
        units=int(share * 3_400),
        bad=int(share * 12),
    )
    return Snapshot(planned=Counters(input_bytes=911 * GB, units=3_400), counts=done, lines=["a remark"])


def test_a_large_build_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    bars, screen = Bars("tokenize"), io.StringIO()
    bars._live.console = Console(file=screen, width=80, force_terminal=False)
    with bars:
        bars.show(snapshot(0.5))
        bars.show(snapshot(0.6))
    shown = screen.getvalue()
    assert "a remark" in shown and "546.6/911.0 GB" in shown and "units 2,040/3,400" in shown
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80


def test_what_there_is_none_of_is_not_told() -> None:
    rates = {"documents_per_second": 0.0, "tokens_per_second": 0.0}
    assert told(Snapshot(planned=Counters(units=3)), rates) == "units 0/3"
    bad = Snapshot(planned=Counters(units=3), counts=Counters(units=1, bad=2), retries={"SourceUnavailable": 4})
    assert told(bad, rates) == "units 1/3, 2 bad, 4 retries"
