"""What differs between two datasets: by their manifests alone, so it is quick at any size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from bamba_data.format.dataset import Dataset


@dataclass(frozen=True)
class Change:
    """`where` is a field, a source, an input or a shard; None on a side means that it is not there."""

    where: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.where}: {self.after}"
        if self.after is None:
            return f"- {self.where}: {self.before}"
        return f"~ {self.where}: {self.before} -> {self.after}"


def diff(before: Dataset, after: Dataset) -> list[Change]:
    """All changes, from the widest to the narrowest; none for two datasets of one digest."""
    if before.manifest.digest == after.manifest.digest:
        return []
    return [*_manifests(before, after), *_inputs(before, after), *_shards(before, after)]


def _manifests(before: Dataset, after: Dataset) -> Iterator[Change]:
    old, new = (d.manifest.model_dump(mode="json", exclude={"sources", "tables"}) for d in (before, after))
    yield from differences("", old, new)
    sources = [{source.name: source.model_dump(mode="json") for source in d.manifest.sources} for d in (before, after)]
    yield from differences("source ", sources[0], sources[1])


def differences(prefix: str, old: Any, new: Any) -> Iterator[Change]:
    """The changed values of two JSON values, each under its dotted place below `prefix`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(
                f"{prefix}.{key}" if prefix and prefix[-1] != " " else f"{prefix}{key}",
                old.get(key),
                new.get(key),
            )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(f"{prefix}.{number}", before, after)
    elif old != new:
        yield Change(prefix, _brief(old), _brief(new))


def _brief(value: Any) -> Any:
    """A whole mapping or list that came or went is named, not printed."""
    if isinstance(value, dict):
        return f"{{{', '.join(map(str, list(value)[:6]))}}}"
    if isinstance(value, list) and len(value) > 6:
        return f"[{len(value)} entries]"
    return value


def _inputs(before: Dataset, after: Dataset) -> Iterator[Change]:
    columns = ["size_bytes", "sha256", "kept", "tokens", "quarantined"]
    yield from _rows("input ", ["source", "path"], columns, before.files, after.files)


def _shards(before: Dataset, after: Dataset) -> Iterator[Change]:
    """By unit and part: a shard's name has its content in it."""
    yield from _rows(
        "shard ", ["source", "unit", "part"], ["sha256", "documents", "tokens"], before.shards, after.shards
    )


def _rows(prefix: str, keys: list[str], columns: list[str], old: pl.DataFrame, new: pl.DataFrame) -> Iterator[Change]:
    left = old.select([*keys, *columns]).with_columns(pl.lit(True).alias("here"))
    right = new.select([*keys, *columns]).with_columns(pl.lit(True).alias("here"))
    joined = left.join(right, on=keys, how="full", suffix="_new", coalesce=True).sort(keys)
    for row in joined.iter_rows(named=True):
        where = prefix + "/".join(str(row[key]) for key in keys)
        if row["here"] is None or row["here_new"] is None:
            yield Change(where, "there" if row["here"] else None, "there" if row["here_new"] else None)
            continue
        for column in columns:
            if row[column] != row[f"{column}_new"]:
                yield Change(f"{where} {column}", row[column], row[f"{column}_new"])
