"""One page that says what a dataset cost and how its runs went: HTML with its plots inside, nothing to fetch.

Everything in it is read from the store: the record of every attempt (pipelines.observe.runs) and, if one is published,
the manifest. Core-hours are what the cluster held while units ran; beside them stands the part in which a unit was
running.
"""

import base64
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bamba_data
from bamba_data.errors import DatasetNotFound
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.inspect.show import size
from bamba_data.inspect.units import duration, significant
from bamba_data.storage.store import Store, open_store

from . import report_plots, runs
from .runs import Status

WORDS_CHARS = 24  # a longer cell is no number


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


def _moved(attempt: Status) -> tuple[int, int]:
    """Input bytes and tokens of this attempt alone: its bytes start at what was finished before."""
    return (max(0, attempt.input_bytes - (attempt.points[0].input_bytes if attempt.points else 0)), attempt.tokens)


def page(url: str, price_per_core_hour: float | None = None, currency: str = "$") -> str:
    """The report of the dataset at `url`.

    Args:
        url: Of the dataset.
        price_per_core_hour: For the cost; without it none is shown.
        currency: Of that price.

    Returns:
        A page of HTML.

    Raises:
        DatasetNotFound: Neither a run nor a dataset is there.
    """
    store = open_store(url)
    attempts = list(runs.attempts(store))
    dataset = _published(store)
    runs.check_found(store, attempts)
    by_run: dict[str, list[Status]] = {}
    for attempt in attempts:
        by_run.setdefault(attempt.run, []).append(attempt)
    title = dataset.manifest.name if dataset else attempts[-1].recipe
    body = [f"<h1>{_text(title)}</h1>", f"<p class=where>{_text(store.url)}</p>"]
    if dataset:
        body += _dataset(dataset)
    for run, mine in reversed(by_run.items()):  # the one that was written to last comes first
        body += _run(run, mine, cost_of(mine, price_per_core_hour), currency)
    body.append(f"<footer>bamba-data {bamba_data.__version__}; every number is read from the store</footer>")
    return _PAGE.format(title=_text(title), body="\n".join(body))


def write(url: str, path: Path, price_per_core_hour: float | None = None, currency: str = "$") -> None:
    path.write_text(page(url, price_per_core_hour, currency), encoding="utf-8")


def _published(store: Store) -> Dataset | None:
    try:
        return open_dataset(store.url)
    except DatasetNotFound:
        return None


# ---- the parts of the page


def _dataset(dataset: Dataset) -> Iterator[str]:
    manifest, totals = dataset.manifest, dataset.manifest.totals
    stored = sum(source.size_bytes for source in manifest.sources)
    yield _numbers(
        [
            ("tokens", f"{totals.tokens:,}"),
            ("documents", f"{totals.kept:,}"),
            ("stored", size(stored)),
            ("bytes a token", f"{stored / max(1, totals.tokens):.2f}"),
            ("dropped", f"{sum(totals.dropped.values()):,}"),
            ("dead letters", f"{sum(totals.dead_lettered.values()):,}"),
        ]
    )
    yield f"<p>version {dataset.version.number}, published {_text(dataset.version.published_at)}<br>"
    yield f"<code>{manifest.digest}</code></p>"
    rows = [
        [
            source.name,
            f"{source.account.tokens:,}",
            f"{source.account.tokens / max(1, totals.tokens):.1%}",
            f"{source.account.kept:,}",
            f"{source.shards:,}",
            size(source.size_bytes),
            source.license,
        ]
        for source in manifest.sources
    ]
    yield _table(["source", "tokens", "share", "documents", "shards", "stored", "licence"], rows)
    yield _figure(report_plots.sources([(s.name, s.account.tokens) for s in manifest.sources]), "tokens by source")


def _run(run: str, attempts: Sequence[Status], cost: Cost, currency: str) -> Iterator[str]:
    last = attempts[-1]
    yield f"<h2>{_text(run)} <span class='{last.state}'>{last.state}</span></h2>"
    if last.reason:
        yield f"<p class=reason>{_text(last.reason)}</p>"
    numbers = [
        ("attempts", f"{cost.attempts}"),
        ("wall time", duration(cost.wall_hours * 3600)),
        ("core-hours", significant(cost.core_hours)),
        ("of them busy", f"{cost.unit_hours / cost.core_hours:.0%}" if cost.core_hours else "none"),
        ("input done", _share_of(last.input_bytes_read, last.input_bytes_total)),
        ("read", size(cost.input_bytes)),
        ("written", size(cost.shard_bytes)),
        ("tokens/s a core", f"{cost.tokens_per_core_second:,.0f}"),
    ]
    if cost.money is not None:
        numbers.append(("cost", f"{currency}{significant(cost.money)}"))
    yield _numbers([(name, value) for name, value in numbers if value])
    if any(len(attempt.curve) > 1 for attempt in attempts):
        yield _figure(report_plots.progress(attempts), "how far, and how fast, by the time of each attempt")
    rows = [
        [
            attempt.started_at.replace("T", " ").removesuffix("+00:00"),
            attempt.state,
            "" if attempt.exit_code is None else str(attempt.exit_code),
            f"{attempt.units_done:,}/{attempt.units_total:,}",
            f"{attempt.units_failed:,}",
            f"{attempt.tokens:,}",
            f"{attempt.cores:,}",
            *(_seconds(attempt.phase_seconds.get(phase)) for phase in ("prepare", "tokenize", "publish")),
            ", ".join(f"{cause} {count:,}" for cause, count in sorted(attempt.retries.items())),
            f"{attempt.throttled_seconds:,.0f} s",
        ]
        for attempt in attempts
    ]
    names = ["started (UTC)", "state", "exit", "units", "failed", "tokens", "cores", "prepare", "tokenize", "publish"]
    yield _table(*_with_something([*names, "retries", "throttled"], rows))


def _with_something(names: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns in which no attempt has anything to say."""
    chosen = [n for n in range(len(names)) if any(row[n] not in ("", "0 s") for row in rows)]
    return [names[n] for n in chosen], [[row[n] for n in chosen] for row in rows]


def _share_of(part: int, whole: int) -> str:
    """Rounded down: what is not finished is not 100%."""
    return f"{100 * part // whole}%" if whole else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _numbers(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in pairs) + "</dl>"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: str) -> str:
    """Words may go on in the next line, a number may not."""
    return f"<td{' class=words' if len(value) > WORDS_CHARS else ''}>{_text(value)}</td>"


def _text(value: str) -> str:
    """Names and reasons come from recipes and upstream hosts: whatever is in them stays text."""
    return html.escape(value)


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}"></figure>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1 {{ margin-bottom: 0 }} h2 {{ margin-top: 2.5rem; font-size: 1.15rem }} .where, footer, dt {{ color: #667 }}
dl {{ display: flex; flex-wrap: wrap; gap: .4rem 2rem }} dd {{ margin: 0; font-size: 1.25rem }}
table {{ border-collapse: collapse; font-size: 13px }} td, th {{ padding: .2rem .7rem; text-align: left;
  border-bottom: 1px solid #ddd; white-space: nowrap }} .wide {{ overflow-x: auto }}
td.words {{ white-space: normal; overflow-wrap: anywhere }}
img {{ max-width: 100% }} figure {{ margin: 1rem 0 }} h2 span {{ font-weight: normal; font-size: .9rem; color: #970 }}
h2 span.complete {{ color: #272 }} h2 span.stop, h2 span.lost {{ color: #b22 }}
.reason {{ white-space: pre-wrap; background: #fbeeee; padding: .5rem 1rem }} footer {{ margin-top: 3rem }}
</style></head><body>
{body}
</body></html>
"""
