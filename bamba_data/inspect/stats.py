"""Counts and lengths of a dataset, source by source, through Polars: only the column of token counts is read."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from bamba_data.errors import CorruptShard, UserError, one_line
from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import shard_folder
from bamba_data.inspect.units import axis_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHARDS_AT_ONCE = 4096
PLOTS = (".png", ".pdf", ".svg")
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class SourceStats:
    """`quantiles` are of tokens a document; `share` is of all tokens."""

    source: str
    documents: int
    tokens: int
    share: float
    text_bytes: int
    bytes_per_token: float
    stored_bytes_per_token: float
    shortest: int
    longest: int
    mean: float
    quantiles: dict[str, float]


def stats(dataset: Dataset) -> list[SourceStats]:
    """One entry a source, in the manifest's order."""
    total = max(1, dataset.manifest.totals.tokens)
    measured = []
    for source in dataset.manifest.sources:
        lengths = _lengths(dataset, source.name)
        account = source.account
        measured.append(
            SourceStats(
                source=source.name,
                documents=account.kept,
                tokens=account.tokens,
                share=account.tokens / total,
                text_bytes=account.text_bytes,
                bytes_per_token=account.text_bytes / max(1, _tokens_built(dataset, source.name)),
                stored_bytes_per_token=source.size_bytes / max(1, account.tokens),
                shortest=lengths["shortest"] or 0,
                longest=lengths["longest"] or 0,
                mean=lengths["mean"] or 0.0,
                quantiles={f"{q:g}": lengths[f"q{q:g}"] or 0.0 for q in QUANTILES},
            )
        )
    return measured


def _lengths(dataset: Dataset, source: str) -> dict[str, Any]:
    column = pl.col("token_count")
    asked = [
        column.min().alias("shortest"),
        column.max().alias("longest"),
        column.mean().alias("mean"),
        *(column.quantile(q).alias(f"q{q:g}") for q in QUANTILES),
    ]
    return document_lengths(dataset, source).to_frame().select(asked).row(0, named=True)


def _tokens_built(dataset: Dataset, source: str) -> int:
    """Those that the text bytes are of: dropped ones, too."""
    if dataset.manifest.derived is not None:
        return int(dataset.files.filter(pl.col("source") == source)["tokens"].sum())
    return sum(entry.account.tokens for entry in dataset.manifest.sources if entry.name == source)


def document_lengths(dataset: Dataset, source: str) -> pl.Series:
    """Tokens of every document of a source, in the order of its shards.

    Raises:
        CorruptShard: one of its shards cannot be read.
    """
    urls = dataset.shard_urls(source, with_dropped=True)
    paths = dataset.shards.filter(pl.col("source") == source)["path"]
    is_masked = len(dataset.masks.filter(pl.col("source") == source)) > 0
    dropped = dict(dataset.dropped_rows().group_by("path").agg("row").iter_rows()) if is_masked else {}
    counts = [pl.Series("token_count", [], pl.UInt32)]
    # Some at a time: of all files that it is given at once Polars keeps the footers.
    for start in range(0, len(urls), SHARDS_AT_ONCE):
        some = slice(start, start + SHARDS_AT_ONCE)
        frames = list(_scans(urls[some], paths[some].to_list(), dropped))
        try:
            counts.append(pl.concat(frames).collect()["token_count"])
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptShard(shard_folder(source), f"a shard cannot be read ({one_line(error)})") from None
    return pl.concat(counts)


def _scans(urls: list[str], paths: list[str], dropped: dict[str, list[int]]) -> Iterator[pl.LazyFrame]:
    """Token counts, in order: of shards that lost nothing together, of each other one without its dropped rows."""
    by_loss = groupby(zip(urls, paths, strict=True), lambda shard: shard[1] if shard[1] in dropped else None)
    for path, shards in by_loss:
        frame = pl.scan_parquet([url for url, _ in shards], glob=False, hive_partitioning=False).select("token_count")
        if path is not None:
            frame = frame.with_row_index("row").filter(~pl.col("row").is_in(dropped[path])).select("token_count")
        yield frame


def plot(dataset: Dataset, path: Path) -> None:
    """Draw the distribution of document lengths, one line a source, to a PNG, PDF or SVG."""
    if path.suffix.lower() not in PLOTS:
        raise UserError(f"{path}: a plot is drawn as {', '.join(PLOTS)}; name the file so")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    height = max(4.2, 1.5 + 0.28 * len(dataset.manifest.sources))
    figure, (lengths_axis, share_axis) = plt.subplots(1, 2, figsize=(11, height), layout="constrained")
    counts = {source.name: document_lengths(dataset, source.name).to_numpy() for source in dataset.manifest.sources}
    edges = length_edges([of_source for of_source in counts.values() if len(of_source)])
    for name, of_source in counts.items():
        heights, _ = np.histogram(of_source, edges)
        lengths_axis.stairs(heights / max(1, len(of_source)), edges, label=name, linewidth=1.4)
    lengths_axis.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel="tokens a document", ylabel="share of documents")
    lengths_axis.legend(fontsize=8)
    names = [source.name for source in dataset.manifest.sources]
    tokens = [source.account.tokens for source in dataset.manifest.sources]
    unit, word = axis_unit(max(tokens, default=0))
    share_axis.barh(names, [count / unit for count in tokens])
    share_axis.invert_yaxis()
    share_axis.set(xlabel=f"{word}tokens")
    figure.suptitle(f"{dataset.manifest.name}  {dataset.manifest.digest[:16]}")
    drawn = io.BytesIO()  # not straight to the file: its last bytes are written unseen, and a full disk would be too
    figure.savefig(drawn, dpi=130, format=path.suffix.lstrip(".").lower())
    plt.close(figure)
    path.write_bytes(drawn.getvalue())


def length_edges(counts: "Sequence[NDArray[Any]]") -> "NDArray[Any]":
    """Edges of bins for lengths on a logarithmic axis, from the shortest to the longest: 12 a factor of ten, which are
    those of every dataset, but no narrower than a token."""
    import numpy as np

    longest = max((int(of_source.max()) for of_source in counts), default=1)
    shortest = max(1, min((int(of_source.min()) for of_source in counts), default=1))
    first, last = int(np.floor(12 * np.log10(shortest))), int(np.floor(12 * np.log10(max(longest, 1)))) + 1
    # Between whole numbers: of the short lengths, a bin without any would be a gap in the line.
    return np.unique(np.ceil(np.logspace(first / 12, last / 12, last - first + 1)) - 0.5)
