"""The order written down the obvious way: every token of every epoch in a list, rows cut from it, nothing closed-form.

It shares the permutation, the lattice and the names of keys with the loader (they have tests of their own), and no
arithmetic on tokens, blocks, epochs or rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from bamba_data.format.shard import Tokens
from loader.order.epochs import document_order
from loader.order.permutation import Permutation, derive_key
from loader.order.plan import MixPlan
from loader.order.plan_entries import Cap, Mix, Quarantine, Ramp, Skip
from loader.order.stretches import Stretch
from loader.sources.base import Candidates

Doc = list[int]


@dataclass
class MemoryBlocks:
    """A source in memory: blocks of documents of ids. `heldout` are (block, document) that candidates name."""

    name: str
    blocks: Sequence[Sequence[Doc]]
    heldout: Sequence[tuple[int, int]] = ()
    dtype: Any = field(default_factory=lambda: np.dtype("<u2"))

    @property
    def identity(self) -> str:
        return f"memory/{self.name}"

    @property
    def documents(self) -> Any:
        return np.array([len(block) for block in self.blocks], np.int64)

    @property
    def tokens(self) -> Any:
        return np.array([sum(map(len, block)) for block in self.blocks], np.int64)

    @property
    def candidates(self) -> Candidates:
        places = sorted(self.heldout)
        counts = [len(self.blocks[block][document]) for block, document in places]
        block, document = ([place[n] for place in places] for n in (0, 1))
        return Candidates(*(np.array(x, np.int64) for x in (block, document, counts)), np.zeros(len(places), np.uint64))

    def digest(self, block: int) -> bytes:
        return derive_key(self.name, block, repr(self.blocks[block])).to_bytes(16, "little")

    def read(self, block: int) -> Tokens:
        counts = np.array([len(document) for document in self.blocks[block]], np.uint32)
        return Tokens(np.array([i for document in self.blocks[block] for i in document], self.dtype), counts)


class Token(NamedTuple):
    id: int
    document: tuple[int, int, int]  # epoch, block, document
    place: int  # in its document


class Row(NamedTuple):
    source: str
    ids: list[int]
    labels: list[int]
    positions: list[int]
    numbers: list[int]
    tokens: list[Token]


class Oracle:
    """The first `rows` rows of the global order. `gone` says from which epoch a document is left out, by source."""

    def __init__(
        self,
        plan: MixPlan,
        sources: Mapping[str, MemoryBlocks],
        rows: int,
        gone: Mapping[str, Mapping[tuple[int, int], int]] | None = None,
    ) -> None:
        self.plan = plan
        self.mixed = self._mixed(rows)
        self.skipped = {row for e in plan.entries if isinstance(e, Skip) for row in range(e.row, e.row + e.rows)}
        self._served = {
            name: self._source(
                name, sources[name], sum(one == name for one, _ in self.mixed), (gone or {}).get(name, {})
            )
            for name in plan.sources
        }

    def row(self, g: int) -> Row:
        name, ordinal = self.mixed[g]
        tokens = self._served[name][ordinal]
        length = self.plan.header.row_tokens
        masked = {
            (e.block, e.document)
            for e in self.plan.entries
            if isinstance(e, Quarantine) and e.source == name and e.row <= g
        }
        ids, labels, positions, numbers = [], [], [], []
        for at in range(length):
            here, following = tokens[at], tokens[at + 1]
            same = here.document == following.document and following.place == here.place + 1
            hidden = here.document[1:] in masked or (here.document[1], None) in masked
            ids.append(here.id)
            labels.append(following.id if same and not hidden else -100)
            positions.append(0 if at == 0 or here.place == 0 else positions[-1] + 1)
            numbers.append(0 if at == 0 else numbers[-1] + (here.place == 0))
        return Row(name, ids, labels, positions, numbers, tokens[:length])

    def _mixed(self, rows: int) -> list[tuple[str, int]]:
        """(source, ordinal) of every global row, skipped ones too. Ramps and caps are taken from the plan: they have
        tests of their own."""
        if any(isinstance(e, Ramp | Cap) for e in self.plan.entries):
            return self._counted(self.plan.mixes, rows)
        found: list[tuple[str, int]] = []
        counts = dict.fromkeys(self.plan.sources, 0)
        mixes = [e for e in self.plan.entries if isinstance(e, Mix)]
        lattices = {one.first_row: one for one in self.plan.mixes}
        for mix, following in zip(mixes, [*mixes[1:], None], strict=True):
            for g in range(mix.row, min(following.row if following else rows, rows)):
                stretch = lattices[mix.row]
                name = stretch.sources[int(stretch.lattice.sources(np.array([g]))[0])]
                found.append((name, counts[name]))
                counts[name] += 1
        return found

    def _counted(self, mixes: Sequence[Stretch], rows: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        counts = dict.fromkeys(self.plan.sources, 0)
        for mix in mixes:
            for g in range(mix.first_row, min(mix.end, rows)):
                name = mix.sources[int(mix.lattice.sources(np.array([g]))[0])]
                found.append((name, counts[name]))
                counts[name] += 1
        return found

    def _source(
        self, name: str, blocks: MemoryBlocks, rows: int, gone: Mapping[tuple[int, int], int]
    ) -> list[list[Token]]:
        """The first rows of a source, in the order served."""
        length, key = self.plan.header.row_tokens, derive_key(self.plan.header.seed, "source", name)
        stream: list[Token] = []
        begins: list[int] = []
        order: list[int] = []
        while len(order) < rows or len(stream) < (max(order, default=0) + 1) * length + 1:
            epoch = len(begins)
            begins.append(len(stream))
            stream += self._epoch(key, epoch, blocks, gone)
            if epoch:  # now it is known which rows start in the epoch before
                first, end = -(-begins[epoch - 1] // length), -(-begins[epoch] // length)
                order += self._shuffled(key, epoch - 1, first, end)
        return [stream[row * length : row * length + length + 1] for row in order]

    def _epoch(
        self, key: int, epoch: int, blocks: MemoryBlocks, gone: Mapping[tuple[int, int], int]
    ) -> Iterator[Token]:
        header, count = self.plan.header, len(blocks.blocks)
        order = Permutation(count, derive_key(key, "blocks", epoch))
        for block in (order(place) for place in range(count)):
            documents = blocks.blocks[block]
            for document in document_order(key, epoch, block, len(documents)).tolist() if documents else []:
                if (block, document) in blocks.heldout or gone.get((block, document), epoch + 1) <= epoch:
                    continue
                ids = [*header.before, *documents[document], *header.after]
                yield from (Token(i, (epoch, block, document), n) for n, i in enumerate(ids))

    def _shuffled(self, key: int, epoch: int, first: int, end: int) -> list[int]:
        """The rows [first, end) in windows of nearly equal size, each in an order of its own."""
        windows = -(-(end - first) // self.plan.header.window_rows)
        cuts = [first + n * (end - first) // windows for n in range(windows + 1)] if windows else []
        found = []
        for number, (low, high) in enumerate(pairwise(cuts)):
            order = Permutation(high - low, derive_key(key, "rows", epoch, number))
            found += [low + order(place) for place in range(high - low)]
        return found
