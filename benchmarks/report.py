"""Rounds of measurements to a table: medians with their range, and a mark on what the data cannot carry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Yard:
    """One run of the yardstick."""

    text_bytes: int
    tokens: int
    seconds: float
    peak_rss_mib: float

    @property
    def mb_per_second(self) -> float:
        return self.text_bytes / MB / self.seconds


@dataclass(frozen=True, slots=True)
class Shot:
    """One tool on one set of files in one round: the long run, its start-up run, the yardsticks beside it."""

    tool: str
    format: str
    files: int
    round: int
    text_bytes: int
    start_text_bytes: int
    wall_seconds: float
    start_seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    peak_pss_mib: float
    output_bytes: int
    left_behind: int
    yard_mb_per_second: float

    @property
    def gross(self) -> float:
        """MB of text per second, from exec to exit."""
        return self.text_bytes / MB / self.wall_seconds

    @property
    def net_seconds(self) -> float:
        return self.wall_seconds - self.start_seconds

    @property
    def net(self) -> float | None:
        """MB per second of the text beyond the start-up run's; None where noise left no time for it."""
        if self.net_seconds <= 0:
            return None
        return (self.text_bytes - self.start_text_bytes) / MB / self.net_seconds

    @property
    def steady(self) -> bool:
        """Whether the work took longer than the start-up taken off it."""
        return self.net_seconds >= self.start_seconds


@dataclass(frozen=True, slots=True)
class Check:
    """How many documents carry the ids of the reference (None: too much text to ask), and their tokens."""

    documents: int
    reference_documents: int | None
    same: int | None
    tokens: int
    stripped: bool
    versions: dict[str, str]

    def __str__(self) -> str:
        if self.reference_documents is None:
            return "not asked"
        note = " stripped" if self.stripped else ""
        if self.same == self.reference_documents == self.documents:
            return f"all{note}"
        return f"{self.same}/{self.reference_documents}{note}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most over all rounds; none if a round has no value: dropping it would flatter."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        all_values = list(values)
        known = sorted(value for value in all_values if value is not None)
        if not known or len(known) < len(all_values):
            return None
        return cls(median(known), known[0], known[-1], len(known))


def text_of(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    digits = 2 if spread.median < 20 else 1
    values = (f"{v:.{digits}f}" for v in (spread.median, spread.low, spread.high))
    return "{} ({}-{})".format(*values)


@dataclass(frozen=True, slots=True)
class Row:
    tool: str
    format: str
    text_mb: float
    gross: Spread | None
    start_seconds: Spread | None
    net: Spread | None
    ratio_gross: Spread | None
    ratio_net: Spread | None
    cpu_share: Spread | None
    output_bytes_per_token: float | None
    peak_rss_mib: float
    peak_pss_mib: float
    steady: bool
    left_behind: int
    ids: str

    def cells(self) -> tuple[str, ...]:
        mark = "" if self.steady else " ~"
        per_token = self.output_bytes_per_token
        return (
            self.tool,
            self.format,
            f"{self.text_mb:.1f}",
            text_of(self.gross),
            text_of(self.start_seconds),
            text_of(self.net) + mark,
            text_of(self.ratio_net) + mark,
            f"{per_token:.2f}" if per_token else "-",
            f"{self.peak_rss_mib:.0f}" if self.peak_rss_mib else "-",
            f"{self.peak_pss_mib:.0f}" if self.peak_pss_mib else "-",
            text_of(self.cpu_share),
            self.ids,
        )


HEAD = (
    "tool",
    "input",
    "MB",
    "gross MB/s",
    "start-up s",
    "net MB/s",
    "net / yardstick",
    "B/token",
    "RSS MiB",
    "PSS MiB",
    "cpu/wall",
    "same ids",
)


def row(shots: Sequence[Shot], check: Check | None) -> Row:
    first = shots[0]
    nets = [(s.net, s.yard_mb_per_second) for s in shots]
    return Row(
        tool=first.tool,
        format=first.format,
        text_mb=first.text_bytes / MB,
        gross=Spread.of(s.gross for s in shots),
        start_seconds=Spread.of(s.start_seconds for s in shots),
        net=Spread.of(net for net, _ in nets),
        ratio_gross=Spread.of(s.gross / s.yard_mb_per_second for s in shots),
        ratio_net=Spread.of(net and net / yard for net, yard in nets),
        cpu_share=Spread.of(s.cpu_seconds / s.wall_seconds for s in shots),
        output_bytes_per_token=median(s.output_bytes for s in shots) / check.tokens if check and check.tokens else None,
        peak_rss_mib=max(s.peak_rss_mib for s in shots),
        peak_pss_mib=max(s.peak_pss_mib for s in shots),
        steady=all(s.steady for s in shots),
        left_behind=max(s.left_behind for s in shots),
        ids=str(check) if check else "-",
    )


def yard_row(yards: Sequence[Yard], format: str) -> Row:
    speed = Spread.of(y.mb_per_second for y in yards)
    one = Spread(1, 1, 1, len(yards))
    return Row(
        tool="yardstick",
        format=f"{format}, in memory",
        text_mb=yards[0].text_bytes / MB,
        gross=speed,
        start_seconds=None,
        net=speed,
        ratio_gross=one,
        ratio_net=one,
        cpu_share=None,
        output_bytes_per_token=None,
        peak_rss_mib=max(y.peak_rss_mib for y in yards),
        peak_pss_mib=0,
        steady=True,
        left_behind=0,
        ids="reference",
    )


NOTES = """\
Median (least-most) of the rounds, one core. MB = 10^6 bytes of UTF-8 text.
gross: from exec to exit. start-up: the same command on 20 documents, just before, second of two
runs. net: (text - text of the 20 documents) / (seconds - start-up).
net / yardstick: over the mean of the yardstick runs just before and just after it.
~ the start-up was longer than the work left after taking it off, in some round: give it more text
before quoting net. "-" instead of net: in some round no time was left at all.
B/token: all bytes of output / tokens without delimiters. RSS, PSS: most of all processes together,
sampled each 0.1 / 0.5 s; RSS counts shared pages once per process. cpu/wall: below 1 the core was
shared, or idle, or work was done by processes that the command did not wait for.
same ids: documents whose ids equal the reference's ("stripped": of texts stripped as the tool does)."""


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, readable as plain text."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    printed = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    printed.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(printed)
