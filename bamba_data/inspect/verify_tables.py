"""Do the tables of a dataset agree with its manifest and with each other? No shard is looked at.

Sums, orders, accounts of inputs and sources, the identity, the masks of a derived version; in full the digests of all
rows, too.
"""

import hashlib

import polars as pl

from bamba_data.format.dataset import Dataset
from bamba_data.format.holdout_candidates import LIMIT
from bamba_data.format.layout import shard_folder
from bamba_data.format.manifest import FIRST_FORMAT
from bamba_data.format.masks import REMOVED
from bamba_data.format.tables import SCHEMAS, row_digest
from bamba_data.inspect.shard_rows import in_order, is_in_order, of_shards
from bamba_data.inspect.verify_masks import masks_fit
from bamba_data.inspect.verify_report import Fault, Report

SHARDS_AT_ONCE = 1 << 16


def check_tables(dataset: Dataset, report: Report) -> None:
    """All faults of the tables go into the report."""
    files, shards, blocks = dataset.files, dataset.shards, dataset.blocks
    folders = {name: f"{shard_folder(name)}/" for name in shards["source"].unique()}
    folder = pl.col("source").replace_strict(folders, return_dtype=pl.String)
    if not shards.select(pl.col("path").str.starts_with(folder).all()).item():
        report.fault("table shards", "a shard lies outside the folder of its source")
    if not blocks["shard"].is_sorted() or not blocks.select(_BLOCKS_IN_ORDER).item():
        report.fault("table blocks", "its rows are not in the order of the shards and their blocks")
    _check_candidates(dataset, report)
    if mask_faults := list(masks_fit(dataset)):
        report.faults += [Fault("table masks", fault) for fault in mask_faults]
        return
    _check_identity(dataset, report)
    if files.select("source", "file").is_duplicated().any():
        report.fault("table files", "two inputs of a source have one number")
    unbalanced = files.filter(pl.col("read") != pl.col("kept") + pl.col("dropped") + pl.col("dead_lettered"))
    for row in unbalanced.iter_rows(named=True):
        report.fault(f"input {row['source']}/{row['path']}", "its account does not balance")
    for source in dataset.manifest.sources:
        mine = pl.col("source") == source.name
        account = source.account
        dropped, bad = sum(account.dropped.values()), sum(account.dead_lettered.values())
        counts = {"read": account.read, "kept": account.kept, "dropped": dropped, "dead_lettered": bad}
        sizes = {"tokens": account.tokens, "text_bytes": account.text_bytes, "quarantined": source.quarantined}
        kept = {"documents": account.kept, "tokens": account.tokens}
        where = f"source {source.name}"
        if dataset.manifest.derived is not None:  # inputs are accounted for as they were read
            removed = account.dropped.get(REMOVED, 0)
            counts |= {"kept": account.kept + removed, "dropped": dropped - removed}
            sizes.pop("tokens")
            _sums(report, where, "blocks as read", dataset.as_read.blocks.filter(mine), **kept)
            _sums(report, where, "inputs", files.filter(mine), **counts, **sizes)
            _sums(report, where, "shards", shards.filter(mine), size_bytes=source.size_bytes, blocks=source.blocks)
            _sums(report, where, "dead letters", dataset.dead_letters.filter(mine), records=bad)
            continue
        _sums(report, where, "inputs", files.filter(mine), **counts, **sizes)
        _sums(report, where, "shards", shards.filter(mine), **kept, size_bytes=source.size_bytes, blocks=source.blocks)
        _sums(report, where, "blocks", blocks.filter(mine), **kept)
        _sums(report, where, "dead letters", dataset.dead_letters.filter(mine), records=bad)
    by_shard = blocks.group_by("shard").agg(pl.col("documents").sum(), pl.col("tokens").sum(), pl.len().alias("blocks"))
    numbered = shards.with_row_index("shard").select("shard", "path", "documents", "tokens", "blocks")
    joined = numbered.join(by_shard, on="shard", how="full", suffix="_found", coalesce=True)
    differ = pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(f"{name}_found")) for name in ("documents", "tokens", "blocks")
    )
    for path in joined.filter(differ)["path"]:
        report.fault(str(path), "the tables of shards and blocks disagree about it")


def _check_identity(dataset: Dataset, report: Report) -> None:
    """What the manifest states of each source is what the tables have; in full, of each row of every table, too."""
    if dataset.manifest.format == FIRST_FORMAT:
        return
    counted, stated = dataset.identities_of_tables, dataset.identities
    for name, wanted in stated.items():
        for kind in ("content", "document_ids"):
            there, said = getattr(counted[name], kind), getattr(wanted, kind)
            if there != said:
                report.fault(f"source {name}", f"{kind} is {there[:16]} by its tables, the manifest says {said[:16]}")
    if report.full:
        parts = [(name, *part) for name in SCHEMAS for part in dataset.table_parts(name)]
        if derived := dataset.manifest.derived:
            parts.append(("masks", derived.masks, dataset.masks))
        for name, entry, rows in parts:
            content = hashlib.sha256()
            for row in rows.iter_rows(named=True):
                content.update(row_digest(row))
            if content.hexdigest() != entry.content:
                report.fault(f"table {name}", "its rows do not have the manifest's digest (content)")


#: Of blocks whose shards are in order: they count from 0 in each.
_BLOCKS_IN_ORDER = (
    pl.col("block").cast(pl.Int64)
    == pl.when(pl.col("shard").ne_missing(pl.col("shard").shift(1)))
    .then(0)
    .otherwise(pl.col("block").cast(pl.Int64).shift(1) + 1)
).all()


def _check_candidates(dataset: Dataset, report: Report) -> None:
    """Each lies in a block that has so many documents and tokens. (Whether they are all, only bodies can say.)"""
    candidates = dataset.candidates
    candidate_tokens = pl.col("tokens").cast(pl.UInt64).sum().over("shard", "block")
    fits = (
        (pl.col("document") < pl.col("documents"))
        & (candidate_tokens <= pl.col("tokens_block"))
        & (pl.col("hash") < LIMIT)
    )
    blocks, listed = in_order(dataset.blocks, "shard", "block"), in_order(candidates, "shard", "block", "document")
    last = int(listed["shard"][-1]) if len(listed) else -1
    for first in range(0, last + 1, SHARDS_AT_ONCE):
        theirs, part = (of_shards(table, first, first + SHARDS_AT_ONCE - 1) for table in (blocks, listed))
        joined = part.join(theirs, on=["source", "shard", "block"], how="left", suffix="_block")
        if not joined.select(fits.fill_null(False).all()).item():
            report.fault("table candidates", "a document of it is in no block, or should not be in it")
            break
    if not is_in_order(candidates, "shard", "block", "document"):
        report.fault("table candidates", "its rows are not in the order of the shards, blocks and documents")


def _sums(report: Report, where: str, label: str, frame: pl.DataFrame, **wanted: int) -> None:
    for column, value in wanted.items():
        total = int(frame[column].cast(pl.UInt64).sum())
        if total != value:
            report.fault(where, f"{column} of its {label} sum to {total:,}, the manifest says {value:,}")
