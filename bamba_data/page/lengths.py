"""How long the documents of each source are: a histogram of each, all on one logarithmic axis that fits what there is.

Of a small dataset every document is counted. Of a large one those that its manifest lists with their tokens: one in
200, chosen by a hash of the document's id (format/holdout_candidates.py), so that no shard is opened at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from bamba_data.errors import BambaError
from bamba_data.format.dataset import Dataset
from bamba_data.format.holdout_candidates import ONE_IN
from bamba_data.inspect.stats import QUANTILES, document_lengths, length_edges

MAX_SHARDS = 256  # each is a request for its footer, and one for the column
MAX_DOCUMENTS = 20_000_000


@dataclass(frozen=True)
class Histogram:
    """Of one source. `counts[i]` documents have from `edges[i]` to `edges[i + 1]` tokens; `measured` of `documents`
    were looked at. `fault` says why a source has none."""

    source: str
    counts: list[int]
    measured: int
    documents: int
    shortest: int
    longest: int
    mean: float
    quantiles: dict[str, float]
    fault: str


@dataclass(frozen=True)
class Lengths:
    """`edges` are those of all histograms, in tokens; `one_in` is 1 where every document was counted."""

    edges: list[float]
    one_in: int
    histograms: list[Histogram]


def lengths(dataset: Dataset, sources: Sequence[str]) -> Lengths:
    """Of these sources."""
    totals = dataset.manifest.totals
    everything = len(dataset.shards) <= MAX_SHARDS and totals.kept <= MAX_DOCUMENTS
    faults: dict[str, str] = {}
    measured = {}
    for source in sources:
        try:
            measured[source] = document_lengths(dataset, source) if everything else _listed(dataset, source)
        except BambaError as error:
            faults[source], measured[source] = str(error), pl.Series([], dtype=pl.UInt32)
    edges = length_edges([counts.to_numpy() for counts in measured.values() if len(counts)])
    return Lengths(
        edges=edges.tolist(),
        one_in=1 if everything else ONE_IN,
        histograms=[
            _histogram(dataset, source, counts, edges, faults.get(source, "")) for source, counts in measured.items()
        ],
    )


def _listed(dataset: Dataset, source: str) -> pl.Series:
    return dataset.as_read.candidates.filter(pl.col("source") == source)["tokens"]


def _histogram(dataset: Dataset, source: str, tokens: pl.Series, edges: np.ndarray, fault: str) -> Histogram:
    entry = dataset.manifest.source(source)
    heights, _ = np.histogram(tokens.to_numpy(), edges)
    if edges.size:  # documents without a token lie below the logarithmic axis: they are counted with the shortest
        heights[0] += int((tokens < edges[0]).sum())
    quantiles = {f"{q:g}": float(tokens.quantile(q) or 0) for q in QUANTILES} if len(tokens) else {}
    return Histogram(
        source=source,
        counts=[int(height) for height in heights],
        measured=len(tokens),
        documents=entry.account.kept if entry else 0,
        shortest=int(tokens.min() or 0),  # type: ignore[arg-type]
        longest=int(tokens.max() or 0),  # type: ignore[arg-type]
        mean=float(tokens.mean() or 0),  # type: ignore[arg-type]
        quantiles=quantiles,
        fault=fault,
    )
