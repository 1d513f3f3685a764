"""A subset of a dataset: some of its sources, and of these the documents for which an expression is true.

The expression is SQL as Polars has it, over the table of documents (see choosing.py; what is taken
says filtering/condition.py): `tokens >= 64 AND source <> 'books'`. Documents for which it is unknown (null) leave.
Sources leave whole, with their rows in the tables; documents by masks. Shards stay as they are.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl

from bamba_data.errors import UserError
from bamba_data.filtering.condition import Condition
from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest import Manifest
from bamba_data.format.manifest_entries import DerivedEntry, Tables
from bamba_data.format.masks import Flags, as_read

from .choosing import DOCUMENTS, choose
from .committing import commit, newest_expected, nothing_left, parent_held
from .dropping import Derived
from .restating import parent_of, refuse_first_format, restated, software_of, source_as_left
from .saving import files_of, save_elsewhere, save_table


def subset(url: str, sources: Sequence[str], where: str | None, version: str | None = None) -> Derived | None:
    """Publish a version of some of the documents.

    Args:
        url: the dataset; the parent is its newest version.
        sources: names of those that stay; none for all.
        where: which documents stay; None for all.
        version: another parent.

    Returns:
        What was published; None if everything stays.

    Raises:
        UserError: there is no such source or column, the expression is no condition, or nothing would be left.
    """
    if not sources and where is None:
        raise UserError("say what stays: --source NAME, --where EXPRESSION, or both")
    condition = None if where is None else _condition(where)
    with parent_held(url, version) as (parent, fence):
        refuse_first_format(parent)
        manifest = _restricted(parent, sources) if sources else parent.manifest
        staying = Dataset(parent.store, parent.version, manifest)
        before = parent.manifest.totals
        arguments = {"sources": ", ".join(sources), "where": where or ""}
        manifest = _masked(staying, parent, condition, arguments)
        documents, tokens = before.kept - manifest.totals.kept, before.tokens - manifest.totals.tokens
        if not documents and len(manifest.sources) == len(parent.manifest.sources):
            return None
        newest = newest_expected(url, version, parent)
        made = commit(parent.store, manifest, parent.version.lock, fence, newest, parent=parent)
    return Derived(made, manifest, documents, tokens)


def _masked(staying: Dataset, parent: Dataset, condition: Condition | None, arguments: dict[str, str]) -> Manifest:
    """The manifest of the sources that stay, without the documents that leave."""
    masks = staying.masks
    if condition is not None:
        masks = choose(staying, condition.columns, partial(_leaves, condition)).masks
    left = as_read(staying.blocks, staying.candidates, masks)
    if not len(left.blocks):
        raise nothing_left(parent.store.url)
    documents = dict(left.blocks.group_by("source").agg(pl.col("documents").cast(pl.UInt64).sum()).iter_rows())
    entries = [
        source_as_left(source, left, source.account.kept - documents.get(source.name, 0))
        for source in staying.manifest.sources
    ]
    derived = DerivedEntry(
        command="subset",
        arguments=arguments,
        parents=[parent_of(parent)],
        masks=save_table("masks", masks, parent.store),
        joined=staying.manifest.derived.joined if staying.manifest.derived else [],
        elsewhere=staying.manifest.derived.elsewhere if staying.manifest.derived else None,
    )
    return restated(staying.manifest, entries, derived)


def _restricted(parent: Dataset, sources: Sequence[str]) -> Manifest:
    """The parent's manifest with these sources alone, and their rows of the tables. Nobody publishes it as it is."""
    names = [source.name for source in parent.manifest.sources]
    if strangers := [name for name in sources if name not in names]:
        raise UserError(f"no source {', '.join(strangers)}; the dataset has {', '.join(names)}")
    stays = pl.col("source").is_in(list(sources))
    numbers = parent.shards.with_row_index("old").filter(stays)["old"]
    renumbered = pl.DataFrame({"shard": numbers, "new": pl.arange(0, len(numbers), eager=True, dtype=pl.UInt32)})

    def of_sources(name: str, frame: pl.DataFrame) -> pl.DataFrame:
        rows = frame.filter(stays)
        if "shard" not in rows.columns:
            return rows
        joined = rows.join(renumbered, on="shard", how="left", maintain_order="left")
        return joined.with_columns(shard=pl.col("new")).select(frame.columns)

    saved = {
        name: save_table(name, of_sources(name, getattr(parent, name)), parent.store) for name in Tables.model_fields
    }
    derived = DerivedEntry(
        command="subset",
        arguments={},
        parents=[parent_of(parent)],
        masks=save_table("masks", of_sources("masks", parent.masks), parent.store),
        joined=[],
        elsewhere=save_elsewhere(parent.elsewhere, files_of(parent, stays), parent.store),
    )
    entries = [source for source in parent.manifest.sources if source.name in sources]
    software = software_of(parent.manifest, parent.shards.filter(stays)["software"])
    return restated(parent.manifest, entries, derived, tables=Tables(**saved), software=software)


def _condition(text: str) -> Condition:
    """Raises UserError, before anything is read, for what is no condition on the table of documents."""
    try:
        return Condition(text, DOCUMENTS)
    except UserError as error:
        raise UserError(f"--where {error}") from None


def _leaves(condition: Condition, documents: pl.DataFrame) -> Flags:
    try:
        stays = condition.of(documents)
    except UserError as error:
        raise UserError(f"--where {error}") from None
    return ~stays.fill_null(False).to_numpy().astype(np.bool_)
