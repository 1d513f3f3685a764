"""The documents of a source in their order, a block at a time, verified, with delimiters put around them.

Blocks are fetched ahead by a few threads, so that a remote store is not waited for block by block.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bamba_data.errors import CorruptShard
from bamba_data.format.block_reading import BlockPlace, ShardFooter, fetch_block, read_footer, vouched_tokens
from bamba_data.format.dataset import Dataset
from bamba_data.format.masks import removed_in

FETCHES = 4  # blocks on their way at once; each is some hundred thousand tokens
READS = 3  # of what does not have its digest: bits may flip on the way, too
LINEAGE = ("document_id", "file", "row")

T = TypeVar("T")


class TokenBlock(NamedTuple):
    """The documents of a block: all ids end to end, how many each has, and where each comes from if that was wanted."""

    ids: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    lineage: pa.Table | None


@dataclass(frozen=True)
class SourceShard:
    """A shard of a source: `stem` is the name of its file without its ending, `row` its row in the table of shards."""

    number: int
    stem: str
    row: dict[str, Any]


def shards_of(dataset: Dataset, source: str) -> list[SourceShard]:
    """All shards of a source, in its order."""
    return [
        SourceShard(number, row["path"].rpartition("/")[2].removesuffix(".parquet"), row)
        for number, row in enumerate(dataset.shards.iter_rows(named=True))
        if row["source"] == source
    ]


class BlockReader:
    """Reads shards of one dataset. To be used in a `with` block, which ends its threads."""

    def __init__(self, dataset: Dataset, *, with_lineage: bool) -> None:
        self._dataset, self._with_lineage = dataset, with_lineage
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="export")
        self._removed = removed_in(dataset.masks, dataset.blocks)
        frame = dataset.as_read.blocks.select("shard", *BlockPlace._fields)
        self._places = frame.partition_by("shard", as_dict=True, include_key=False) if len(frame) else {}

    def __enter__(self) -> "BlockReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def is_empty(self, shard: SourceShard) -> bool:
        """Whether the manifest masks all documents of a shard."""
        return (shard.number,) not in self._places

    def read(self, shard: SourceShard) -> Iterator[TokenBlock]:
        """The blocks of a shard that is not empty, in order, without the documents that the manifest masks.

        Raises:
            CorruptShard: what lies there is missing, or is not what the manifest says.
        """
        footer = _again(lambda: read_footer(self._dataset.files_store, shard.row))
        places = [BlockPlace._make((*row[:-1], row[-1].hex())) for row in self._places[(shard.number,)].iter_rows()]
        yield from _ahead(self._pool, lambda place: self._block(shard.number, footer, place), places)

    def _block(self, shard: int, footer: ShardFooter, place: BlockPlace) -> TokenBlock:
        removed = self._removed.get((shard, place.block))

        def block() -> TokenBlock:
            reader = fetch_block(self._dataset.files_store, footer, place)
            tokens = vouched_tokens(reader, place, None if removed is None else ~removed)
            lineage = reader.table(place.block, LINEAGE) if self._with_lineage else None
            if lineage is not None and removed is not None:
                lineage = lineage.filter(pa.array(~removed))
            return TokenBlock(tokens.ids, tokens.counts.astype(np.int64), lineage)

        return _again(block)


def delimited(block: TokenBlock, before: Sequence[int], after: Sequence[int]) -> TokenBlock:
    """The block with these ids before and after every document."""
    added = len(before) + len(after)
    if not added:
        return block
    counts = block.counts + added
    ends = np.cumsum(counts)
    ids = np.empty(int(ends[-1]), block.ids.dtype)
    is_text = np.ones(len(ids), np.bool_)
    for place, one in itertools.chain(
        ((ends - counts + number, one) for number, one in enumerate(before)),
        ((ends - len(after) + number, one) for number, one in enumerate(after)),
    ):
        ids[place] = one
        is_text[place] = False
    ids[is_text] = block.ids
    return TokenBlock(ids, counts, block.lineage)


def _ahead(pool: ThreadPoolExecutor, make: Callable[[BlockPlace], T], places: Sequence[BlockPlace]) -> Iterator[T]:
    """What `make` gives of each place, in order, with at most FETCHES of them made but not taken."""
    waiting: deque[Future[T]] = deque()
    for place in places:
        waiting.append(pool.submit(make, place))
        if len(waiting) >= FETCHES:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _again(read: Callable[[], T]) -> T:
    """What `read` gives, tried READS times. A shard that is not there is a damaged one."""
    for left in reversed(range(READS)):
        try:
            return read()
        except FileNotFoundError as error:
            raise CorruptShard(str(error.filename or error), "is missing") from error
        except CorruptShard:
            if not left:
                raise
    raise AssertionError
