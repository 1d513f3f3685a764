"""Shards that have lost much, written anew without what left; those that have lost all are no longer named.

Blocks stay what they are to readers: the documents that are left of each, in their order. So the identity is that of
the parent, and whoever reads by it, a loader's state too, goes on as if nothing had happened. Files alone change.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

import bamba_data
from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptShard, IntegrityError, UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest import Manifest
from bamba_data.format.manifest_entries import DerivedEntry, SoftwareEntry, Tables, software_line
from bamba_data.format.masks import Flags, as_read, removed_in
from bamba_data.format.shard import Finished, ShardReader, ShardWriter

from .committing import commit, newest_expected, parent_held
from .dropping import Derived
from .restating import parent_of, refuse_first_format, restated, source_as_left
from .saving import save_elsewhere, save_table

LOST = 0.2  # of a shard's tokens: then to read it costs a quarter more than it should
_ENDLESS = 1 << 62  # blocks end where they did


@dataclass(frozen=True)
class _Anew:
    """A shard that was written anew: its row of the table of shards, and those of its blocks and candidates but for the
    shard's number."""

    shard: dict[str, Any]
    blocks: list[dict[str, Any]]
    candidates: list[dict[str, Any]]


def compact(
    url: str,
    lost: float = LOST,
    version: str | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Derived | None:
    """Publish a version of the same content, whose files hold less of what left.

    Args:
        url: the dataset; the parent is its newest version.
        lost: write a shard anew if so large a share of its tokens left, 0 to 1; 0 takes every shard that lost any.
        version: another parent.
        tick: told (written, all) after every shard.

    Returns:
        What was published; `documents` and `tokens` are those that its files no longer hold. None if no shard has lost
        so much.

    Raises:
        UserError: `lost` is no share.
        CorruptShard: a shard is not what was published.
    """
    if not 0 <= lost <= 1:
        raise UserError(f"--lost is {lost:g}: it is a share of a shard's tokens, from 0 to 1")
    with parent_held(url, version) as (parent, fence):
        refuse_first_format(parent)
        chosen = _that_lost(parent, lost)
        if not chosen:
            return None
        removed = removed_in(parent.masks, parent.blocks)
        anew: dict[int, _Anew | None] = {}
        for done, number in enumerate(chosen, 1):
            anew[number] = _written_anew(parent, number, removed)
            tick(done, len(chosen))
        tables = _tables(parent, anew)
        manifest = _manifest(parent, tables, lost)
        fresh = set(tables["shards"]["path"]) - set(parent.shards["path"])
        newest = newest_expected(url, version, parent)
        made = commit(parent.store, manifest, parent.version.lock, fence, newest, fresh, parent)
    documents, tokens = (
        int(parent.shards[name].cast(pl.UInt64).sum()) - int(tables["shards"][name].cast(pl.UInt64).sum())
        for name in ("documents", "tokens")
    )
    return Derived(made, manifest, documents, tokens)


def _that_lost(parent: Dataset, lost: float) -> list[int]:
    """The shards of whose tokens at least this share left."""
    left = parent.masks.join(parent.blocks, on=["shard", "block"], suffix="_stored")
    gone = left.group_by("shard").agg((pl.col("tokens_stored") - pl.col("tokens")).sum().alias("gone"))
    shares = gone.join(parent.shards.with_row_index("shard").select("shard", "tokens"), on="shard")
    # A document of no tokens can leave, too: of a shard that lost it, any share is enough.
    chosen = shares.filter(pl.col("gone") >= lost * pl.col("tokens")) if lost else shares
    return sorted(chosen["shard"])


def _written_anew(parent: Dataset, number: int, removed: Mapping[tuple[int, int], Flags]) -> _Anew | None:
    """Write what is left of a shard; None if that is nothing."""
    row = parent.shards.row(number, named=True)
    try:
        data = parent.files_store.read(row["path"])
    except FileNotFoundError:
        raise CorruptShard(row["path"], "is missing") from None
    if sha256(data) != row["sha256"]:
        raise CorruptShard(row["path"], "its sha256 is not the manifest's")
    reader = ShardReader(io.BytesIO(data), row["path"])
    writer = ShardWriter(reader.dtype, _ENDLESS, _ENDLESS)
    for block in parent.blocks.filter(pl.col("shard") == number).sort("block").iter_rows(named=True):
        documents = reader.tokens(block["block"], block["digest"].hex(), block["documents"]).documents()
        lineage = reader.table(block["block"], ["document_id", "file", "row"]).to_pylist()
        gone = removed.get((number, block["block"]), np.zeros(len(documents), np.bool_))
        for ids, about, is_gone in zip(documents, lineage, gone.tolist(), strict=True):
            if not is_gone:
                writer.add(ids, about["document_id"], about["file"], about["row"])
        writer.end_block()
    if not writer.documents:
        return None
    finished = writer.finish()
    path = f"{row['path'].rpartition('-')[0]}-{finished.sha256[:16]}.parquet"
    parent.store.put(path, finished.data)
    return _rows(row, path, finished, _versions(parent.manifest, row["software"]))


def _rows(row: dict[str, Any], path: str, finished: Finished, versions: Mapping[str, str]) -> _Anew:
    own = {"source": row["source"]}
    return _Anew(
        {
            **row,
            "path": path,
            "sha256": finished.sha256,
            "size_bytes": len(finished.data),
            "documents": finished.documents,
            "tokens": finished.tokens,
            "blocks": len(finished.blocks),
            "footer_bytes": finished.footer.size_bytes,
            "footer_digest": bytes.fromhex(finished.footer.digest),
            "software": software_line(versions),
        },
        [
            {
                **own,
                "block": block,
                **entry.to_json(),
                "digest": bytes.fromhex(entry.digest),
                "ids_digest": bytes.fromhex(entry.ids_digest),
            }
            for block, entry in enumerate(finished.blocks)
        ],
        [{**own, **candidate._asdict()} for candidate in finished.candidates],
    )


def _versions(manifest: Manifest, line: str) -> dict[str, str]:
    """Of a shard that was made by the software of `line`, and is written anew by this process."""
    made_by = next(entry.versions for entry in manifest.software if software_line(entry.versions) == line)
    return {**made_by, "bamba-data": bamba_data.__version__, "pyarrow": pa.__version__}


def _tables(parent: Dataset, anew: Mapping[int, _Anew | None]) -> dict[str, pl.DataFrame]:
    """All tables, with the rows of shards that were written anew in place of the old ones."""
    rows: list[dict[str, Any]] = []
    old_numbers: list[int] = []
    blocks: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []
    for number, row in enumerate(parent.shards.iter_rows(named=True)):
        fresh = anew.get(number)
        if number in anew and fresh is None:
            continue
        old_numbers.append(number)
        rows.append(fresh.shard if fresh else row)
        if fresh:
            blocks += [{**block, "shard": len(rows) - 1} for block in fresh.blocks]
            candidates += [{**candidate, "shard": len(rows) - 1} for candidate in fresh.candidates]
    numbers = {"shard": old_numbers, "new": range(len(rows))}
    renumbered = pl.DataFrame(numbers, schema=dict.fromkeys(numbers, pl.UInt32))
    kept = renumbered.filter(~pl.col("shard").is_in(list(anew)))

    def moved(frame: pl.DataFrame, more: list[dict[str, Any]]) -> pl.DataFrame:
        old = frame.join(kept, on="shard").with_columns(shard=pl.col("new")).select(frame.columns)
        order = [name for name in ("shard", "block", "document") if name in frame.columns]
        return pl.concat([old, pl.DataFrame(more, schema=frame.schema)]).sort(order)

    return {
        "files": parent.files,
        "shards": pl.DataFrame(rows, schema=parent.shards.schema),
        "blocks": moved(parent.blocks, blocks),
        "candidates": moved(parent.candidates, candidates),
        "dead_letters": parent.dead_letters,
        "masks": moved(parent.masks, []),
    }


def _manifest(parent: Dataset, tables: Mapping[str, pl.DataFrame], lost: float) -> Manifest:
    """Raises IntegrityError where the content would not be the parent's."""
    left = as_read(tables["blocks"], tables["candidates"], tables["masks"])
    sources = []
    for source in parent.manifest.sources:
        shards = tables["shards"].filter(pl.col("source") == source.name)
        files = {"shards": len(shards), **{name: int(shards[name].sum()) for name in ("size_bytes", "blocks")}}
        sources.append(source_as_left(source.model_copy(update=files), left, 0))
    saved = {name: save_table(name, tables[name], parent.store) for name in tables}
    derived = DerivedEntry(
        command="compact",
        arguments={"lost": f"{lost:g}"},
        parents=[parent_of(parent)],
        masks=saved.pop("masks"),
        joined=[],
        elsewhere=save_elsewhere(
            parent.elsewhere, {*tables["shards"]["path"], *tables["dead_letters"]["path"]}, parent.store
        ),
    )
    lines = tables["shards"]["software"].value_counts().sort("software")
    by_line = {software_line(entry.versions): entry.versions for entry in parent.manifest.software}
    for line in tables["shards"]["software"].unique():
        by_line.setdefault(line, dict(pair.rsplit(" ", 1) for pair in line.split(", ")))
    software = [SoftwareEntry(versions=by_line[line], shards=count) for line, count in lines.iter_rows()]
    manifest = restated(parent.manifest, sources, derived, tables=Tables(**saved), software=software)
    if manifest.identity != parent.identity:
        raise IntegrityError(
            f"{parent.store.url}: what was written is other content than before; nothing was published"
        )
    return manifest
