"""Counts and lengths of sources as two tables that fit a terminal of 80 columns, whatever the sources are called."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from bamba_data.inspect.stats import QUANTILES, SourceStats
from bamba_data.inspect.units import short


def tables(sources: Sequence[SourceStats]) -> list[Table]:
    """What there is, in exact numbers, and how long the documents are, in short ones (`--json` has all exactly).

    A name that is too long goes on in the next line; a number is never cut.
    """
    counts = _table(None, "source", "documents", "tokens", "share", "mean", "bytes", "stored")
    counts.caption = "mean tokens a document; bytes of text a token, and stored"
    lengths = _table("tokens a document", "source", *(f"{quantile:.0%}" for quantile in QUANTILES), "longest")
    for source in sources:
        name = escape(source.source)
        counts.add_row(
            name,
            f"{source.documents:,}",
            f"{source.tokens:,}",
            f"{source.share:.2%}",
            short(source.mean),
            f"{source.bytes_per_token:.2f}",
            f"{source.stored_bytes_per_token:.2f}",
        )
        quantiles = (short(source.quantiles[f"{quantile:g}"]) for quantile in QUANTILES)
        lengths.add_row(name, *quantiles, short(source.longest))
    return [counts, lengths]


def _table(title: str | None, name: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, show_edge=False, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column(name, overflow="fold", min_width=8)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
