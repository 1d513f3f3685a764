"""Drop documents from a dataset: a new version whose masks leave them out. No shard is read but those that have some.

Where a list names documents by (file, row), only shards that were made of these files are looked at; by id or by token
digest, all shards (of the sources that the list names), for nothing says where an id lies.
"""

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest import Manifest
from bamba_data.format.manifest_entries import DerivedEntry
from bamba_data.format.masks import Flags, as_read
from bamba_data.format.versions import Version

from .choosing import Chosen, choose
from .committing import commit, newest_expected, nothing_left, parent_held
from .document_list import DocumentList
from .restating import parent_of, refuse_first_format, restated, source_as_left
from .saving import save_table

Missing = Literal["error", "ignore"]
SHOWN = 3


@dataclass(frozen=True)
class Derived:
    """What was published: `documents` and `tokens` have left since the parent; `missing` entries of a list name no
    document."""

    version: Version
    manifest: Manifest
    documents: int
    tokens: int
    missing: int = 0


def drop(url: str, listed: DocumentList, version: str | None = None, missing: Missing = "error") -> Derived | None:
    """Publish a version without the listed documents.

    Args:
        url: the dataset; the parent is its newest version.
        listed: which documents.
        version: another parent.
        missing: what to do with entries that name no document of the dataset.

    Returns:
        What was published; None if all of the documents had left before.

    Raises:
        UserError: entries name no document, or unknown sources, or nothing would be left.
    """
    with parent_held(url, version) as (parent, fence):
        refuse_first_format(parent)
        search = _Search(listed, parent)
        chosen = choose(parent, {"source", *listed.key}, search.leaves, search.shards())
        unknown = search.missing()
        if len(unknown) and missing == "error":
            raise UserError(
                f"{len(unknown):,} of {len(listed.entries):,} entries name no document of {parent.store.url}: "
                f"{'; '.join(str(row) for row in unknown.head(SHOWN).to_dicts())}. Take them out, or say "
                "--missing ignore"
            )
        if not chosen.documents:
            return None
        arguments = {"list": listed.sha256, "by": ", ".join(listed.entries.columns), "missing": missing}
        manifest = masked(parent, chosen, "drop", arguments)
        newest = newest_expected(url, version, parent)
        made = commit(parent.store, manifest, parent.version.lock, fence, newest, parent=parent)
    return Derived(made, manifest, chosen.documents, chosen.tokens, len(unknown))


def masked(parent: Dataset, chosen: Chosen, command: Literal["drop", "subset"], arguments: dict[str, str]) -> Manifest:
    """The manifest of the parent under other masks. Raises UserError if they leave nothing."""
    left = as_read(parent.blocks, parent.candidates, chosen.masks)
    if not len(left.blocks):
        raise nothing_left(parent.store.url)
    sources = []
    for source in parent.manifest.sources:
        kept = int(left.blocks.filter(pl.col("source") == source.name)["documents"].cast(pl.UInt64).sum())
        sources.append(source_as_left(source, left, source.account.kept - kept))
    derived = DerivedEntry(
        command=command,
        arguments=arguments,
        parents=[parent_of(parent)],
        masks=save_table("masks", chosen.masks, parent.store),
        joined=parent.manifest.derived.joined if parent.manifest.derived else [],
        elsewhere=parent.manifest.derived.elsewhere if parent.manifest.derived else None,
    )
    return restated(parent.manifest, sources, derived)


class _Search:
    """Finds the listed documents, and knows which entries were found."""

    def __init__(self, listed: DocumentList, dataset: Dataset) -> None:
        self._listed, self._dataset = listed, dataset
        self._on = list(listed.entries.columns)
        self._entries = listed.entries.with_row_index("entry")
        self._found: set[int] = set()
        self._lock = threading.Lock()
        names = {source.name for source in dataset.manifest.sources}
        if "source" in self._on and (strangers := set(listed.entries["source"]) - names):
            raise UserError(f"the list names sources {sorted(strangers)}; the dataset has {sorted(names)}")

    def leaves(self, documents: pl.DataFrame) -> Flags:
        """Which documents of a block are listed."""
        matched = documents.with_row_index("place").join(self._entries, on=self._on, how="inner")
        flags = np.zeros(len(documents), np.bool_)
        flags[matched["place"].to_numpy()] = True
        with self._lock:
            self._found.update(matched["entry"])
        return flags

    def shards(self) -> set[int] | None:
        """The shards that can have listed documents; None for all."""
        shards = self._dataset.shards.with_row_index("shard")
        if "source" in self._on:
            shards = shards.filter(pl.col("source").is_in(self._entries["source"].unique().to_list()))
        if "file" in self._on:
            files = self._dataset.files.select("source", pl.col("path").alias("file"), pl.col("file").alias("number"))
            keys = [name for name in self._on if name != "row"]
            wanted = files.join(self._entries.select(keys).unique(), on=keys, how="semi").sort("number")
            # A shard has files from its first one on, up to the first one of the next unit.
            begins = shards.select("source", "first_file").unique().sort("first_file")
            units = wanted.join_asof(
                begins,
                left_on="number",
                right_on="first_file",
                by="source",
                strategy="backward",
                check_sortedness=False,
                coalesce=False,
            )
            shards = shards.join(units.select("source", "first_file"), on=["source", "first_file"], how="semi")
        elif "source" not in self._on:
            return None
        return set(shards["shard"])

    def missing(self) -> pl.DataFrame:
        """The entries that no document was found for."""
        return self._entries.filter(~pl.col("entry").is_in(list(self._found))).drop("entry")
