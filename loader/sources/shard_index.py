"""What is in the blocks of a dataset, by source: counts, places and digests, from the manifest's tables.

They are one file of arrays in the cache folder, mapped and not loaded: nine million blocks cost a process no memory,
and all processes of a host after the first no time. The file is named by the digests of the tables that it is of.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.identity import Identifying
from bamba_data.format.masks import AsRead

from ..cache.array_file import read_arrays, write_parts
from .base import Candidates

ATTEMPTS = 3  # at a whole index: another process may be mending it, too
Arrays = dict[str, NDArray[Any]]

#: The arrays of an index, an element a block (two of a digest), then those of the candidates for being held out.
FIELDS: Mapping[str, str] = {
    "shard": "<u4",
    "block": "<u4",
    "documents": "<i8",
    "tokens": "<i8",
    "offset": "<u8",
    "size_bytes": "<u8",
    "digest": "<u8",
    "candidate_block": "<i8",
    "candidate_document": "<i8",
    "candidate_tokens": "<i8",
    "candidate_hash": "<u8",
}
#: Beside them, where documents were dropped: the blocks that lost some, how many each has as it is stored, where its
#: mask begins in the bits (bamba_data.format.masks), and these.
MASK_FIELDS: Mapping[str, str] = {
    "masked_block": "<i8",
    "stored_documents": "<i8",
    "mask_begin": "<i8",
    "mask_bits": "|u1",
}
PLAIN = ("shard", "block", "documents", "tokens", "offset", "size_bytes")  # columns of the manifest's table
CONTENT = "S64"  # before them: the content of the source, in hex


def open_index(dataset: Dataset, cache: Path) -> list[tuple[str, Arrays]]:
    """Content (bamba_data.format.identity) and arrays, by the names of FIELDS, of each source in the manifest's order.

    Raises:
        CorruptManifest: the tables are not what the manifest states.
        UserError: the cache folder cannot be written, or loses what is written to it.
    """
    manifest = dataset.manifest
    tables = [*manifest.table_parts("blocks"), *manifest.table_parts("candidates")]
    tables += [manifest.derived.masks] if manifest.derived else []
    digest = canonical_json.digest([table.sha256 for table in tables])
    path, key = cache / "index" / f"{digest[:32]}.arrays", bytes.fromhex(digest[:32])
    fields = _fields_of(dataset)
    index = _read(path, key, fields)
    for _ in range(ATTEMPTS):
        if index is None:
            try:
                path.unlink(missing_ok=True)  # damaged
                _write(dataset, path, key, fields)
            except OSError as error:
                raise UserError(
                    f"the cache folder {cache} cannot be written ({error.strerror}): make room, or name another by "
                    "cache= or $BAMBA_CACHE"
                ) from error
            index = _read(path, key, fields)
    if index is None or len(index) != len(dataset.manifest.sources):
        raise UserError(f"the cache folder {cache} loses what is written to it: name another by cache= or $BAMBA_CACHE")
    for source, (content, arrays) in zip(dataset.manifest.sources, index, strict=True):
        counts = len(arrays["tokens"]), int(arrays["tokens"].sum())
        blocks = counts[0] if manifest.derived else source.blocks  # a block that lost all is none
        if counts != (blocks, source.account.tokens):
            raise CorruptManifest(
                dataset.store.url,
                f"source {source.name} has {source.blocks:,} blocks and {source.account.tokens:,} tokens by the "
                f"manifest, {counts[0]:,} and {counts[1]:,} by the table of blocks",
            )
        if source.identity is not None and source.identity.content != content:
            raise CorruptManifest(
                dataset.store.url,
                f"the content of source {source.name} is {source.identity.content} by the manifest, {content} by its "
                "tables",
            )
    return index


def content_of(arrays: Arrays) -> str:
    """Of the arrays of a source: what is served is then what the plan and the caches are named for."""
    identifying = Identifying()
    identifying.add_blocks(arrays["documents"], arrays["tokens"], [arrays["digest"].tobytes()], None)
    identifying.add_candidates(*(arrays[f"candidate_{field}"] for field in Candidates._fields))
    return identifying.done().content


def _fields_of(dataset: Dataset) -> Mapping[str, str]:
    return {**FIELDS, **(MASK_FIELDS if dataset.manifest.derived else {})}


def _read(path: Path, key: bytes, fields: Mapping[str, str]) -> list[tuple[str, Arrays]] | None:
    """Content and arrays of every source; None if there is no index, or a damaged one."""
    try:
        arrays = read_arrays(path, key, [CONTENT, *fields.values()])
    except OSError:
        return None
    if arrays is None:
        return None
    sources = [arrays[first : first + 1 + len(fields)] for first in range(0, len(arrays), 1 + len(fields))]
    return [(str(content[0], "ascii"), dict(zip(fields, values, strict=True))) for content, *values in sources]


def _write(dataset: Dataset, path: Path, key: bytes, fields: Mapping[str, str]) -> None:
    """The arrays of every source as one file, a source at a time. Processes that do this at once write the same."""
    import polars as pl

    names = [source.name for source in dataset.manifest.sources]
    left = dataset.as_read
    blocks, candidates = (dict(table.group_by("source").len().iter_rows()) for table in left)
    masks = {name: _mask_arrays(dataset, left, name) for name in names} if dataset.manifest.derived else {}
    shapes: list[tuple[int, str]] = []
    for name in names:
        of_source = blocks.get(name, 0), candidates.get(name, 0)
        shapes += [(1, CONTENT), *((_elements(field, *of_source), dtype) for field, dtype in FIELDS.items())]
        shapes += [(len(array), MASK_FIELDS[field]) for field, array in masks.get(name, {}).items()]

    def parts() -> Iterator[list[bytes]]:
        for name in names:
            arrays = _arrays_of(left.blocks.filter(pl.col("source") == name), left.candidates, name)
            arrays |= masks.get(name, {})
            if len(arrays["candidate_block"]) != candidates.get(name, 0):
                raise CorruptManifest(
                    dataset.store.url, f"source {name} has candidates in blocks that it does not have"
                )
            yield [np.array([content_of(arrays)], CONTENT).tobytes()]
            yield from ([np.ascontiguousarray(arrays[field], dtype).tobytes()] for field, dtype in fields.items())

    write_parts(path, key, shapes, parts())


def _elements(field: str, blocks: int, candidates: int) -> int:
    if field.startswith("candidate_"):
        return candidates
    return 2 * blocks if field == "digest" else blocks


def _arrays_of(blocks: Any, candidates: Any, name: str) -> Arrays:
    """Each of FIELDS, from the rows of the manifest's tables that are a source's."""
    import polars as pl

    places = blocks.select("shard", "block").with_row_index("candidate_block")
    chosen = (
        candidates.filter(pl.col("source") == name)
        .join(places, on=["shard", "block"])
        .sort("candidate_block", "document")
    )
    arrays = {field: blocks[field].to_numpy() for field in PLAIN}
    arrays["digest"] = np.frombuffer(b"".join(blocks["digest"].to_list()), "<u8")
    arrays["candidate_block"] = chosen["candidate_block"].to_numpy()
    for field in ("document", "tokens", "hash"):
        arrays[f"candidate_{field}"] = chosen[field].to_numpy()
    return arrays


def _mask_arrays(dataset: Dataset, left: AsRead, name: str) -> Arrays:
    """Each of MASK_FIELDS of a source; blocks are numbered as they are read."""
    import polars as pl

    places = left.blocks.filter(pl.col("source") == name).select("shard", "block").with_row_index("place")
    stored = dataset.blocks.select("shard", "block", pl.col("documents").alias("stored"))
    masks = dataset.masks.select("shard", "block", "removed").join(places, on=["shard", "block"])
    masks = masks.join(stored, on=["shard", "block"]).sort("place")
    bits = masks["removed"].to_list()
    sizes = np.array([len(mask) for mask in bits], np.int64)
    return {
        "masked_block": masks["place"].to_numpy().astype(np.int64),
        "stored_documents": masks["stored"].to_numpy().astype(np.int64),
        "mask_begin": np.cumsum(sizes) - sizes,
        "mask_bits": np.frombuffer(b"".join(bits), np.uint8),
    }
