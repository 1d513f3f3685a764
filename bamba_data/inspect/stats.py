"""Counts and lengths of a dataset, source by source, through Polars: only the column of token counts is read."""

import io
from dataclasses import dataclass
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
    return _collect(_counts(dataset, source).select(asked), source).row(0, named=True)


def _tokens_built(dataset: Dataset, source: str) -> int:
    """Those that the text bytes are of: dropped ones, too."""
    if dataset.manifest.derived is not None:
        return int(dataset.files.filter(pl.col("source") == source)["tokens"].sum())
    return sum(entry.account.tokens for entry in dataset.manifest.sources if entry.name == source)


def _counts(dataset: Dataset, source: str) -> pl.LazyFrame:
    urls = dataset.shard_urls(source, with_dropped=True)
    if not urls:
        return pl.LazyFrame(schema={"token_count": pl.UInt32})
    if not len(dataset.masks.filter(pl.col("source") == source)):
        return pl.scan_parquet(urls, glob=False, hive_partitioning=False).select("token_count")
    dropped = dict(dataset.dropped_rows().group_by("path").agg("row").iter_rows())
    frames = []
    for url, path in zip(urls, dataset.shards.filter(pl.col("source") == source)["path"], strict=True):
        counts = pl.scan_parquet(url, glob=False, hive_partitioning=False).select("token_count").with_row_index("row")
        frames.append(counts.filter(~pl.col("row").is_in(dropped.get(path, []))).select("token_count"))
    return pl.concat(frames)


def document_lengths(dataset: Dataset, source: str) -> pl.Series:
    """Tokens of every document of a source, in the order of its shards.

    Raises:
        CorruptShard: one of its shards cannot be read.
    """
    return _collect(_counts(dataset, source), source)["token_count"]


def _collect(frame: pl.LazyFrame, source: str) -> pl.DataFrame:
    try:
        return frame.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CorruptShard(shard_folder(source), f"a shard cannot be read ({one_line(error)})") from None


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
