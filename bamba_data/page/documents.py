"""Documents of a source by their number, in the order of its shards: where each lies and what it says.

A document's number counts what is part of the dataset, from 0: what was dropped has none. Only the blocks that are
asked for are read, each by its byte range, and their digests vouch for tokens and ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property
from bamba_data.errors import CorruptManifest, CorruptShard
from bamba_data.format.block_reading import BlockPlace, ShardFooter, fetch_block, read_footer, vouched_tokens
from bamba_data.format.dataset import Dataset
from bamba_data.format.identity import ids_digest
from bamba_data.format.masks import Flags, unpack
from bamba_data.inspect.shard_rows import in_order, of_shards
from bamba_data.tokenization.tokenizer import Tokenizer

MAX_ID_CHARS = 400
MAX_TEXT_CHARS = 2_000
KEPT_FOOTERS = 64


class Text(NamedTuple):
    """A text, cut to what a page has room for; `chars` is its length, None where it was not decoded to its end."""

    text: str
    chars: int | None


@dataclass(frozen=True)
class Shown:
    """A document and where it came from. `shard_row` and `row` count from 0; `number` is its own in the source."""

    source: str
    number: int
    id: str
    id_chars: int
    tokens: int
    text: str
    cut: bool
    file: str
    url: str
    sha256: str | None
    row: int
    shard: str
    shard_row: int
    block: int
    software: str


class Found(NamedTuple):
    """A document of a block that was read: all that a page can say of it but its text."""

    number: int
    shard_row: int
    ids: NDArray[Any]
    document_id: str
    file: int
    row: int


class Documents:
    """The documents of one source. Reads nothing before it is asked; keeps the footers of the last shards.

    Args:
        dataset: whose they are.
        source: the name of the source.
        tokenizer: the dataset's.

    Attributes:
        count: how many there are.
    """

    def __init__(self, dataset: Dataset, source: str, tokenizer: Tokenizer) -> None:
        self._dataset, self.source, self._tokenizer = dataset, source, tokenizer
        self._stored = in_order(dataset.blocks, "shard", "block")
        self._blocks = dataset.as_read.blocks.filter(dataset.as_read.blocks["source"] == source)
        self._ends = np.cumsum(self._blocks["documents"].to_numpy(), dtype=np.int64)
        self.count = int(self._ends[-1]) if len(self._ends) else 0
        self._footers: dict[int, ShardFooter] = {}

    @property
    def blocks(self) -> int:
        """How many blocks hold them."""
        return len(self._ends)

    def block_of(self, number: int) -> int:
        """Which of the source's blocks has the document of this number."""
        return int(np.searchsorted(self._ends, number, side="right"))

    def first_number(self, block: int) -> int:
        """The number of the first document of a block of the source."""
        return int(self._ends[block - 1]) if block else 0

    def tokens_of(self, block: int) -> int:
        """The tokens of a block of the source."""
        return int(self._blocks["tokens"][block])

    def read(self, block: int) -> list[Found]:
        """All documents of a block of the source, in order.

        Raises:
            CorruptShard: the shard is missing, or is not what the manifest says.
        """
        row = self._blocks.row(block, named=True)
        place = BlockPlace(
            row["block"], row["offset"], row["size_bytes"], row["documents"], row["tokens"], row["digest"].hex()
        )
        footer = self._footer(row["shard"])
        stored_blocks = of_shards(self._stored, row["shard"], row["shard"])
        counts = dict(stored_blocks.select("block", "documents").iter_rows())
        first_row = sum(documents for number, documents in counts.items() if number < row["block"])
        left = self._left(row["shard"], row["block"], counts[row["block"]])
        try:
            reader = fetch_block(self._dataset.files_store, footer, place)
        except FileNotFoundError:
            raise CorruptShard(footer.path, "is missing") from None
        tokens = vouched_tokens(reader, place, left)
        table = reader.table(place.block, ["document_id", "file", "row"]).to_pydict()
        rows = np.arange(counts[row["block"]]) if left is None else np.flatnonzero(left)
        ids = [table["document_id"][stored] for stored in rows]
        digest = row.get("ids_digest")  # the first format states none
        if digest is not None and ids_digest(ids) != digest:
            raise CorruptShard(footer.path, f"block {place.block}: its document ids do not have the manifest's digest")
        first = self.first_number(block)
        return [
            Found(
                first + number,
                first_row + int(stored),
                tokens_of_one,
                ids[number],
                table["file"][stored],
                table["row"][stored],
            )
            for number, (stored, tokens_of_one) in enumerate(zip(rows, tokens.documents(), strict=True))
        ]

    def decode(self, found: Found, max_chars: int | None = MAX_TEXT_CHARS) -> Text:
        """The text of a document, cut to `max_chars` characters; None for all of it."""
        # A character is at most four bytes, and a token at least one: so many tokens have as many characters.
        ids = found.ids if max_chars is None else found.ids[: 4 * max_chars]
        text = self._tokenizer.decode(ids.tolist())
        whole = len(ids) == len(found.ids)
        if max_chars is None or (whole and len(text) <= max_chars):
            return Text(text, len(text))
        return Text(text[:max_chars], len(text) if whole else None)

    def shown(self, block: int, found: Sequence[Found], max_chars: int = MAX_TEXT_CHARS) -> Iterator[Shown]:
        """Documents of one block as a page shows them, with where they came from."""
        row = self._blocks.row(block, named=True)
        shard = self._dataset.shards.row(row["shard"], named=True)
        for document in found:
            text = self.decode(document, max_chars)
            file = self._file(shard["first_file"] + document.file, shard["path"])
            yield Shown(
                source=self.source,
                number=document.number,
                id=document.document_id[:MAX_ID_CHARS],
                id_chars=len(document.document_id),
                tokens=len(document.ids),
                text=text.text,
                cut=text.chars != len(text.text),
                file=file["path"],
                url=file["url"],
                sha256=file["sha256"],
                row=document.row,
                shard=shard["path"],
                shard_row=document.shard_row,
                block=row["block"],
                software=shard.get("software") or "",
            )

    @cached_property
    def _files(self) -> Any:
        import polars as pl

        return self._dataset.files.filter(pl.col("source") == self.source).select("file", "path", "url", "sha256")

    def _file(self, number: int, shard: str) -> dict[str, Any]:
        import polars as pl

        rows = self._files.filter(pl.col("file") == number)
        if not len(rows):
            raise CorruptManifest("tables", f"no input {number} of source {self.source}, which {shard} comes from")
        return dict(rows.row(0, named=True))

    @cached_property
    def _masks(self) -> dict[tuple[int, int], bytes]:
        import polars as pl

        rows = self._dataset.masks.filter(pl.col("source") == self.source).select("shard", "block", "removed")
        return {(shard, block): removed for shard, block, removed in rows.iter_rows()}

    def _left(self, shard: int, block: int, documents: int) -> Flags | None:
        """Of a block that has lost documents, which are left."""
        removed = self._masks.get((shard, block))
        return None if removed is None else ~unpack(removed, documents)

    def _footer(self, shard: int) -> ShardFooter:
        if shard not in self._footers:
            entry = self._dataset.shards.row(shard, named=True)
            try:
                footer = read_footer(self._dataset.files_store, entry)
            except FileNotFoundError:
                raise CorruptShard(entry["path"], "is missing") from None
            while len(self._footers) >= KEPT_FOOTERS:
                del self._footers[next(iter(self._footers))]
            self._footers[shard] = footer
        return self._footers[shard]
