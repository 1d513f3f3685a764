"""From a dataset to one that was derived from it: which documents left, and which came, in the numbers of a plan.

Shards of a source are known in both by unit and part, which a derived version keeps; inputs by their number. What a
shard has in the older version and no longer in the newer one has left; blocks of shards that only the newer one has
came.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.lineage import ancestors
from bamba_data.format.masks import Flags, removed_in
from bamba_data.format.shard import ShardReader

from ..order.plan import MixPlan
from .base import Blocks
from .shards import AddedBlocks, ShardBlocks, content_name, open_blocks

MOST = 2_000  # entries of a plan: of each a block is read whenever an order is made, some milliseconds on a disk
DIGEST_CHARS = 8  # of a manifest, in the name of a source of what came


class Left(NamedTuple):
    """Documents of a block that left, by their numbers; None is all of them."""

    block: int
    documents: list[int] | None


def follow(
    plan: MixPlan, available: Mapping[str, Blocks], newer: Dataset, row: int, cache: Path
) -> tuple[MixPlan, dict[str, Blocks]]:
    """The plan and the blocks of a run that goes on with a derived version from `row` on.

    A document that left is in quarantine from there on: no target for the rest of its epoch, and not in later ones.
    What came to a source is a source of its own, `NAME.DIGEST`, by the first characters of the version's manifest; the
    two share the weight of the source by their tokens, so that no other source has more or fewer rows.

    Raises:
        UserError: the version was not derived from what the plan reads, a source is gone, or too much has left.
    """
    if row:
        plan.begin(row)
    blocks = dict(available)
    fresh = open_blocks(newer, cache)
    line = {version.manifest.digest for version in (newer, *ancestors(newer))}
    families: dict[str, list[ShardBlocks]] = {}
    for name in plan.sources:
        item = available.get(name)
        if isinstance(item, ShardBlocks) and item.dataset.manifest.digest in line:
            families.setdefault(_source(item), []).append(item)
    if not families:
        raise UserError(
            f"version {newer.version.number} of {newer.store.url} was not derived from the data that this loader "
            "reads: a run goes on with a descendant alone"
        )
    for source, parts in families.items():
        if source not in fresh:
            raise UserError(
                f"source {source!r} is not in version {newer.version.number} of {newer.store.url}: leave it out of the "
                "mix first (Loader.with_plan)"
            )
        newest = fresh[source]
        if [part.identity for part in parts] == [newest.identity]:
            blocks[source] = newest  # other files, the same content
            continue
        for part in parts:
            _check_inputs(part, newest)
            plan = _without(plan, part.name, list(what_left(part, newest)), newer, row)
        name = f"{source}.{newer.manifest.digest[:DIGEST_CHARS]}"
        added = AddedBlocks.behind(newest, _first_added(parts, newest), name)
        weights = plan.weights_at(row)
        if len(added.tokens) and any(part.name in weights for part in parts):
            plan = _shared(plan, parts, newest, added, row)
            blocks[name] = added
    return plan, blocks


def with_ancestors(plan: MixPlan, available: Mapping[str, Blocks], cache: Path) -> dict[str, Blocks]:
    """The blocks at hand, and in place of those that the plan names otherwise what it does name: of versions that a
    dataset at hand was derived from, or came with. What is not found stays as it is: the order says what differs."""
    blocks = dict(available)
    at_hand = {id(item.dataset): item.dataset for item in available.values() if isinstance(item, ShardBlocks)}
    for name, identity in plan.sources.items():
        for dataset in at_hand.values():
            if name in blocks and blocks[name].identity == identity:
                break
            if dataset.manifest.derived and (found := _named(name, identity, dataset, cache)) is not None:
                blocks[name] = found
    return blocks


def _named(name: str, identity: str, dataset: Dataset, cache: Path) -> Blocks | None:
    line = [dataset, *ancestors(dataset)]
    for version in line:
        known = version.identities.get(name)
        if known is not None and content_name(known.content, version) == identity:
            return open_blocks(version, cache)[name]
    source, _, digest = name.rpartition(".")
    for version in line:
        if not digest or not version.manifest.digest.startswith(digest) or version.manifest.source(source) is None:
            continue
        newest = open_blocks(version, cache)[source]
        for parent in ancestors(version):
            if parent.manifest.source(source) is not None:
                older = open_blocks(parent, cache)[source]
                added = AddedBlocks.behind(newest, _first_added([older], newest), name)
                if added.identity == identity:
                    return added
    return None


def _check_inputs(older: ShardBlocks, newest: ShardBlocks) -> None:
    """Raises UserError where numbers of inputs mean others now: of a merge whose later part this was."""

    def inputs(blocks: ShardBlocks) -> pl.DataFrame:
        return blocks.dataset.files.filter(pl.col("source") == _source(blocks)).select("file", "path")

    if len(inputs(older).join(inputs(newest), on=["file", "path"], how="anti")):
        raise UserError(
            f"source {older.name!r} stands behind another in {newest.dataset.store.url}, so its documents cannot be "
            "followed: begin a new plan, or give the new data another name in a new mix"
        )


def _shard_keys(blocks: ShardBlocks) -> dict[tuple[int, int], int]:
    """(unit, part) of each shard of a source, to its row in the table of shards."""
    rows = blocks.dataset.shards.with_row_index("number").filter(pl.col("source") == _source(blocks))
    return {(unit, part): number for unit, part, number in rows.select("unit", "part", "number").iter_rows()}


def _first_added(parts: Sequence[ShardBlocks], newest: ShardBlocks) -> int:
    """The number of the first block that none of the parts has. They come last."""
    known = {key for part in parts for key in _shard_keys(part)}
    added = [number for key, number in _shard_keys(newest).items() if key not in known]
    is_added = np.isin(newest.arrays["shard"], np.array(added, np.uint32))
    first = len(is_added) - int(is_added.sum())
    if not is_added[first:].all():
        raise UserError(f"source {newest.name!r}: what came to it does not stand behind what was there")
    return first


def what_left(older: ShardBlocks, newest: ShardBlocks) -> Iterator[Left]:
    """The documents that the older one has and the newer one has not, block by block of the older one."""
    shards = _shard_keys(newest)
    removed_before = removed_in(older.dataset.masks, older.dataset.blocks)
    removed_now = removed_in(newest.dataset.masks, newest.dataset.blocks)
    of_shard: dict[int, list[int]] = {}
    for block, shard in enumerate(older.arrays["shard"].tolist()):
        of_shard.setdefault(shard, []).append(block)
    for key, shard in _shard_keys(older).items():
        number = shards.get(key)
        same = number is not None and older.dataset.shards["path"][shard] == newest.dataset.shards["path"][number]
        rows = None if number is None or same else _rows(newest.dataset, number, removed_now)
        for block in of_shard.get(shard, []):
            documents, row_group = int(older.documents[block]), older.place(block)[1]
            if number is None:
                gone = np.ones(documents, np.bool_)
            elif rows is None:
                before = removed_before.get((shard, row_group))
                after = removed_now.get((number, row_group), np.zeros(0 if before is None else len(before), np.bool_))
                if not len(after):
                    continue
                gone = after if before is None else after[~before]
            else:
                mine = _rows_of_block(older.dataset, shard, row_group, removed_before)
                gone = np.array([place not in rows for place in mine], np.bool_)
            if gone.any():
                yield Left(block, None if gone.all() else np.flatnonzero(gone).tolist())


def _rows(dataset: Dataset, shard: int, removed: Mapping[tuple[int, int], Flags]) -> set[tuple[int, int]]:
    """(file, row) of all documents that are left in a shard."""
    blocks = dataset.blocks.filter(pl.col("shard") == shard)["block"].to_list()
    return {place for block in blocks for place in _rows_of_block(dataset, shard, block, removed)}


def _rows_of_block(
    dataset: Dataset, shard: int, block: int, removed: Mapping[tuple[int, int], Flags]
) -> list[tuple[int, int]]:
    row = dataset.shards.row(shard, named=True)
    with dataset.files_store.open(row["path"]) as file:
        table = ShardReader(file, row["path"]).table(block, ["file", "row"])
    places = list(zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True))
    gone = removed.get((shard, block))
    return places if gone is None else [place for place, is_gone in zip(places, gone, strict=True) if not is_gone]


def _without(plan: MixPlan, name: str, left: list[Left], newer: Dataset, row: int) -> MixPlan:
    """The plan with these documents in quarantine from `row` on."""
    known = {(entry.block, entry.document) for entry in plan.quarantines if entry.source == name}
    places = [
        (block, document) for block, documents in left for document in ([None] if documents is None else documents)
    ]
    fresh = [place for place in places if place not in known and (place[0], None) not in known]
    if len(known) + len(fresh) > MOST:
        raise UserError(
            f"source {name!r}: {len(places):,} documents and whole blocks have left, and a plan takes {MOST:,} of "
            "them: give the new data another name in a new mix (docs/change_mix.md)"
        )
    for block, document in fresh:
        plan = plan.with_quarantine(row, name, block, document, f"left in {newer.manifest.digest[:16]}")
    return plan


def _shared(plan: MixPlan, parts: Sequence[ShardBlocks], newest: ShardBlocks, added: AddedBlocks, row: int) -> MixPlan:
    """The plan in which the parts of a source and what came to it have its weight from `row` on, by their tokens."""
    came, whole = int(added.tokens.sum()), int(newest.tokens.sum())
    weights, names = plan.weights_at(row), {part.name for part in parts}
    shares = {name: weight * (whole - came if name in names else whole) for name, weight in weights.items()}
    shares[added.name] = came * sum(weights.get(name, 0) for name in names)
    return plan.with_mix(
        row, {name: share for name, share in shares.items() if share}, sources={added.name: added.identity}
    )


def _source(blocks: ShardBlocks) -> str:
    """The name that the dataset has for the source of these blocks."""
    return blocks.source if isinstance(blocks, AddedBlocks) else blocks.name
