"""Datasets end to end: the tables of one, then those of the others with their numbers counted on.

Rows of the first are not written again: the others' become further parts of the tables (`DerivedEntry.joined`), so that
to join costs what the others have. Sources of one name become one, if what is said of them is the same and no input
stands in both.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest import Manifest
from bamba_data.format.manifest_entries import (
    BackendEntry,
    DerivedEntry,
    SoftwareEntry,
    SourceEntry,
    Tables,
    software_line,
)
from bamba_data.format.masks import as_read
from bamba_data.storage.store import Store

from .restating import parent_of, refuse_first_format, restated, source_as_left, totals_of
from .saving import files_of, save_elsewhere, save_table

SHOWN = 3
_SAID = ("corpus", "base", "license", "attribution", "homepage")


def joined(
    store: Store,
    parts: Sequence[Dataset],
    command: Literal["append", "merge"],
    arguments: dict[str, str],
    parents: Sequence[Dataset],
    elsewhere: pl.DataFrame | None = None,
) -> Manifest:
    """The manifest of several datasets in one. Writes the further parts of the tables, and publishes nothing.

    Args:
        store: where the tables go. Shards, and the tables of the first dataset, lie there already, or are brought.
        parts: one after the other.
        command: what is done.
        arguments: all that decided the result.
        parents: the published ones among `parts`.
        elsewhere: which of their files are to stay in other stores; without it those that do already.

    Raises:
        UserError: their tokenizers differ, or sources of one name are not one source.
    """
    first = parts[0]
    for part in parts:
        refuse_first_format(part)
        _check_tokenizer(first, part)
    tables = {name: getattr(first, name) for name in (*Tables.model_fields, "masks")}
    sources = {source.name: source for source in first.manifest.sources}
    further = list(first.manifest.derived.joined) if first.manifest.derived else []
    for part in parts[1:]:
        sources = _sources(sources, part.manifest.sources, tables["files"], part)
        moved = _moved(part, tables)
        further.append(Tables(**{name: save_table(name, moved[name], store) for name in Tables.model_fields}))
        tables = {name: pl.concat([tables[name], moved[name]]) for name in tables}
    if elsewhere is None:
        elsewhere = pl.concat([part.elsewhere for part in parts])
    left = as_read(tables["blocks"], tables["candidates"], tables["masks"])
    derived = DerivedEntry(
        command=command,
        arguments=arguments,
        parents=[parent_of(parent) for parent in parents],
        masks=save_table("masks", tables["masks"], store),
        joined=further,
        elsewhere=save_elsewhere(elsewhere, set().union(*map(files_of, parts)), store),
    )
    return restated(
        first.manifest,
        [source_as_left(source, left, 0) for source in sources.values()],
        derived,
        software=_software(parts),
        backend=_backend(parts),
    )


def _check_tokenizer(first: Dataset, other: Dataset) -> None:
    mine, theirs = first.manifest.tokenizer, other.manifest.tokenizer
    if (mine.sha256, mine.token_dtype) != (theirs.sha256, theirs.token_dtype):
        raise UserError(
            f"different tokenizers, whose ids do not mean the same: {mine.url} ({mine.sha256[:16]}) of "
            f"{first.store.url}, {theirs.url} ({theirs.sha256[:16]}) of {other.store.url}"
        )


def _moved(part: Dataset, tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The tables of a part, with numbers of files, units and shards that follow those of `tables`."""

    def following(frame: pl.DataFrame, column: str) -> pl.DataFrame:
        return frame.group_by("source").agg((pl.col(column).max() + 1).alias("after"))

    def shifted(frame: pl.DataFrame, columns: Sequence[str], by: pl.DataFrame) -> pl.DataFrame:
        counted = frame.join(by, on="source", how="left", maintain_order="left").with_columns(
            pl.col("after").fill_null(0)
        )
        return counted.with_columns(
            (pl.col(name) + pl.col("after")).cast(frame.schema[name]) for name in columns
        ).select(frame.columns)

    files, units = following(tables["files"], "file"), following(tables["shards"], "unit")
    before = len(tables["shards"])
    moved = {"dead_letters": part.dead_letters}
    moved["files"] = shifted(part.files, ["file"], files)
    moved["shards"] = shifted(shifted(part.shards, ["first_file"], files), ["unit"], units)
    for name in ("blocks", "candidates", "masks"):
        frame: pl.DataFrame = getattr(part, name)
        moved[name] = frame.with_columns((pl.col("shard") + before).cast(frame.schema["shard"]))
    return moved


def _sources(
    known: Mapping[str, SourceEntry], more: Sequence[SourceEntry], files: pl.DataFrame, part: Dataset
) -> dict[str, SourceEntry]:
    """All sources by name, those of one name as one."""
    sources = dict(known)
    for source in more:
        if source.name not in sources:
            sources[source.name] = source
            continue
        mine = sources[source.name]
        for field in _SAID:
            if getattr(mine, field) != getattr(source, field):
                raise UserError(
                    f"source {source.name}: {field} is {getattr(mine, field)!r} in one and {getattr(source, field)!r} "
                    "in the other: give the new inputs a source of another name"
                )
        is_here = pl.col("source") == source.name
        twice = part.files.filter(is_here).join(files.filter(is_here), on="path", how="semi")["path"].to_list()
        if twice:
            more_of_them = f" and {len(twice) - SHOWN:,} more" if len(twice) > SHOWN else ""
            raise UserError(
                f"source {source.name}: {', '.join(twice[:SHOWN])}{more_of_them} stand in both: every document of "
                "these would be there twice. Give the sources two names, or leave one out first (bamba-data subset)"
            )
        sums = {field: getattr(mine, field) + getattr(source, field) for field in ("files", "quarantined", "shards")}
        sums |= {field: getattr(mine, field) + getattr(source, field) for field in ("blocks", "size_bytes")}
        changed = {**sums, "account": totals_of([mine, source]), "revision": source.revision}
        sources[source.name] = mine.model_copy(update=changed)
    return sources


def _software(parts: Sequence[Dataset]) -> list[SoftwareEntry]:
    shards: Counter[str] = Counter()
    versions: dict[str, dict[str, str]] = {}
    for part in parts:
        for entry in part.manifest.software:
            line = software_line(entry.versions)
            shards[line] += entry.shards
            versions[line] = entry.versions
    return [SoftwareEntry(versions=versions[line], shards=shards[line]) for line in sorted(shards)]


def _backend(parts: Sequence[Dataset]) -> BackendEntry:
    entries = [part.manifest.backend for part in parts]
    certificates = {str(one): one for entry in entries for one in entry.certificates}
    return BackendEntry(
        certificates=[certificates[text] for text in sorted(certificates)],
        sampled_documents=sum(entry.sampled_documents for entry in entries),
        sampled_tokens=sum(entry.sampled_tokens for entry in entries),
        parts_redone=sum(entry.parts_redone for entry in entries),
    )
