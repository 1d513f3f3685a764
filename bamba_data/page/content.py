"""What a page says, as plain values: gathered from the manifest and its tables, and from few blocks of the shards.

The same dataset gives the same values: no clock, no random draw, no name of this machine.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import bamba_data
from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest_entries import SourceEntry
from bamba_data.tokenization.tokenizer import Tokenizer

from .accounts import files, letters
from .history import history
from .lengths import lengths
from .planned import PlannedMix
from .samples import DOCUMENTS, samples

MAX_SOURCES = 200  # of more, those with the most tokens have samples, histograms and dead letters
MAX_CHARS = 2_000  # of what a manifest says in words


def content(
    dataset: Dataset | None,
    *,
    url: str,
    documents: int = DOCUMENTS,
    plan: PlannedMix | None = None,
    runs: Sequence[Any] = (),
    live: bool = False,
) -> dict[str, Any]:
    """Everything on the page.

    Args:
        dataset: what it is about; None where only runs are on record.
        url: the place, as people call it.
        documents: samples of each source.
        plan: the mix as a plan weighs it.
        runs: how runs went (bamba.pipelines.observe.run_costs), each something that JSON can say.
        live: a server answers, so that the page may ask for more.

    Returns:
        What JSON can say.

    Raises:
        UserError: `documents` is below 0.
        CorruptManifest: the tables of the dataset are damaged. (A shard that is damaged is said on the page.)
    """
    if documents < 0:
        raise UserError(f"--samples is {documents}: it can be 0 or more")
    values: dict[str, Any] = {"software": f"bamba-data {bamba_data.__version__}", "url": url, "live": live}
    if dataset is not None:
        values |= _of_dataset(dataset, documents)
        values["plan"] = asdict(plan) if plan else None
    values["runs"] = list(runs)
    return values


def _of_dataset(dataset: Dataset, documents: int) -> dict[str, Any]:
    manifest = dataset.manifest
    by_tokens = sorted(manifest.sources, key=lambda source: (-source.account.tokens, source.name))
    names = [source.name for source in by_tokens[:MAX_SOURCES]]
    tokenizer = manifest.tokenizer
    return {
        "dataset": {
            "name": manifest.name[:MAX_CHARS],
            "version": dataset.version.number,
            "published_at": dataset.version.published_at,
            "digest": manifest.digest,
            "identity": dataset.identity,
            "format": manifest.format,
            "tokenizer": {"url": tokenizer.url, "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
            "token_bytes": int(tokenizer.token_dtype[-1]),
            "totals": manifest.totals.model_dump(),
            "shards": len(dataset.shards),
            "blocks": len(dataset.as_read.blocks),
            "size_bytes": sum(source.size_bytes for source in manifest.sources),
            "written_by": [
                {"shards": entry.shards, "versions": dict(entry.versions)} for entry in manifest.software[:MAX_SOURCES]
            ],
            "derived": manifest.derived.command if manifest.derived else None,
        },
        "sources": [_source(source) for source in by_tokens[:MAX_SOURCES]],
        "sources_in_all": len(manifest.sources),
        "lengths": asdict(lengths(dataset, names)),
        "samples": [asdict(of_source) for of_source in _samples(dataset, names, documents)],
        "files": asdict(files(dataset)),
        "letters": asdict(letters(dataset, names)),
        "history": asdict(history(dataset.store)),
    }


def _samples(dataset: Dataset, names: Sequence[str], documents: int) -> Any:
    return samples(dataset, Tokenizer(dataset.tokenizer_json()), names, documents) if documents else []


def _source(source: SourceEntry) -> dict[str, Any]:
    said = source.model_dump(exclude={"identity"})
    return {name: value[:MAX_CHARS] if isinstance(value, str) else value for name, value in said.items()}
