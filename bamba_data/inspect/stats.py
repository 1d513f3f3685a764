"""Counts and lengths of a dataset, source by source, through Polars: only the column of token counts is read."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bamba_data.errors import CorruptShard, UserError, one_line
from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import shard_folder

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

    figure, (lengths_axis, share_axis) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    edges = np.logspace(0, 7, 85)
    for source in dataset.manifest.sources:
        counts = _collect(_counts(dataset, source.name), source.name)["token_count"].to_numpy()
        heights, _ = np.histogram(counts, edges)
        lengths_axis.stairs(heights / max(1, len(counts)), edges, label=source.name, linewidth=1.4)
    lengths_axis.set(xscale="log", xlabel="tokens a document", ylabel="share of documents")
    lengths_axis.legend(fontsize=8)
    names = [source.name for source in dataset.manifest.sources]
    share_axis.barh(names, [source.account.tokens / 1e6 for source in dataset.manifest.sources])
    share_axis.invert_yaxis()
    share_axis.set(xlabel="million tokens")
    figure.suptitle(f"{dataset.manifest.name}  {dataset.manifest.digest[:16]}")
    drawn = io.BytesIO()  # not straight to the file: its last bytes are written unseen, and a full disk would be too
    figure.savefig(drawn, dpi=130, format=path.suffix.lstrip(".").lower())
    plt.close(figure)
    path.write_bytes(drawn.getvalue())
