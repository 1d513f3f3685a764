"""Which files another tool is to read under which name: all sources together, and each by itself.

Exact files, never a pattern: beside the shards of a version lie those of others, and what a killed build left.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bamba_data.format.dataset import Dataset

#: What the whole is called: the first of these that is no source's name. (`datasets` opens `default` unasked.)
WHOLE_NAMES = ("default", "all", "everything", "all-sources")


@dataclass(frozen=True)
class Config:
    """`source` is None for the whole. Paths are relative to the dataset's folder; there is at least one."""

    name: str
    source: str | None
    paths: tuple[str, ...]


def configs(dataset: Dataset, is_whole: bool) -> list[Config]:
    """The whole first, then every source in the manifest's order; none for a source without shards.

    None at all where documents were dropped that lie in the files still: who reads files would be given them. Nor where
    the folder is not whole, because files lie in other stores (Dataset.is_whole; a pushed copy is).
    """
    if len(dataset.masks) or not is_whole:
        return []
    of_sources = list(_of_sources(dataset))
    if not of_sources:
        return []
    taken = {source.name.casefold() for source in dataset.manifest.sources}
    numbered = (f"default-{number}" for number in range(1, len(taken) + 2))
    name = next(name for name in (*WHOLE_NAMES, *numbered) if name not in taken)
    return [Config(name, None, tuple(path for config in of_sources for path in config.paths)), *of_sources]


def _of_sources(dataset: Dataset) -> Iterator[Config]:
    shards = dataset.shards
    for source in dataset.manifest.sources:
        if paths := tuple(shards.filter(shards["source"] == source.name)["path"]):
            yield Config(source.name, source.name, paths)
