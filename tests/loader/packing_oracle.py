"""Whole-row packings written down the obvious way: every document of every epoch as a list of tokens, put into rows by
looking at every row there is. It shares with the loader what tests/loader/oracle.py does, and nothing of packing.
"""

from collections.abc import Mapping
from itertools import pairwise

from loader.order.epochs import document_order
from loader.order.permutation import Permutation, derive_key
from loader.order.plan_entries import Quarantine
from tests.loader.oracle import MemoryBlocks, Oracle, Row, Token

Pieces = list[list[Token]]


class PackingOracle(Oracle):
    """The first rows of the global order under best-fit. A served row is its pieces; a piece that does not end its
    document is full and has one token more, to look ahead."""

    def row(self, g: int) -> Row:
        name, ordinal = self.mixed[g]
        length = self.plan.header.row_tokens
        masked = {
            (e.block, e.document)
            for e in self.plan.entries
            if isinstance(e, Quarantine) and e.source == name and e.row <= g
        }
        ids, labels, positions, numbers, tokens = [], [], [], [], []
        pieces = self._served[name][ordinal]
        for number, piece in enumerate(pieces):
            block, document = piece[0].document[1:]
            hidden = (block, document) in masked or (block, None) in masked
            for at, (here, following) in enumerate(pairwise([*piece, None])):
                if len(ids) == length:
                    break  # what is left is the look-ahead
                ids.append(here.id)
                labels.append(-100 if following is None or hidden else following.id)
                positions.append(at)
                numbers.append(number)
                tokens.append(here)
        fill = length - len(ids)
        return Row(
            name,
            ids + [0] * fill,
            labels + [-100] * fill,
            positions + list(range(fill)),
            numbers + [len(pieces)] * fill,
            tokens,
        )

    def _source(self, name: str, blocks: MemoryBlocks, rows: int, gone: Mapping[tuple[int, int], int]) -> list[Pieces]:
        key = derive_key(self.plan.header.seed, "source", name)
        made: list[Pieces] = []
        order: list[int] = []
        epoch = 0
        while len(order) < rows:
            first = len(made)
            made += self._packed_epoch(key, epoch, blocks, gone)
            order += self._shuffled(key, epoch, first, len(made))
            epoch += 1
        return [made[row] for row in order]

    def _packed_epoch(
        self, key: int, epoch: int, blocks: MemoryBlocks, gone: Mapping[tuple[int, int], int]
    ) -> list[Pieces]:
        made = []
        groups = self.groups(blocks)
        order = Permutation(len(groups), derive_key(key, "blocks", epoch))
        for group in (order(place) for place in range(len(groups))):
            documents = [(block, n) for block in groups[group] for n in range(len(blocks.blocks[block]))]
            several = []
            for number in document_order(key, epoch, group, len(documents)).tolist():
                block, document = documents[number]
                if (block, document) in blocks.heldout or gone.get((block, document), epoch + 1) <= epoch:
                    continue
                ids = [*self.plan.header.before, *blocks.blocks[block][document], *self.plan.header.after]
                several.append([Token(i, (epoch, block, document), n) for n, i in enumerate(ids)])
            rows = self.pack(several, self.plan.header.row_tokens)
            place = Permutation(len(rows), derive_key(key, "packed", epoch, group)) if rows else None
            made += [rows[place.inverse(n)] for n in range(len(rows))] if place else []
        return made

    def groups(self, blocks: MemoryBlocks) -> list[list[int]]:
        """At least four blocks each, and tokens for `group_rows` rows on average; as many groups as that allows."""
        header, count = self.plan.header, len(blocks.blocks)
        tokens = sum(len(document) for block in blocks.blocks for document in block)
        groups = 1
        while count >= 4 * (groups + 1) and tokens >= (groups + 1) * header.group_rows * header.row_tokens:
            groups += 1
        cuts = [n * count // groups for n in range(groups + 1)]
        return [list(range(low, high)) for low, high in pairwise(cuts)]

    @staticmethod
    def pack(documents: list[list[Token]], length: int) -> list[Pieces]:
        """Best fit, from the longest to the shortest."""
        rows: list[Pieces] = []
        rests = []
        for number, document in enumerate(documents):
            while len(document) >= length:
                rows.append([document[: length + 1]])
                document = document[length:]
            if document:
                rests.append((number, document))
        full = len(rows)
        packed: list[list[tuple[int, list[Token]]]] = []
        for number, rest in sorted(rests, key=lambda one: -len(one[1])):
            room = [length - sum(len(piece) for _, piece in row) for row in packed]
            fitting = [n for n in range(len(packed)) if room[n] >= len(rest)]
            if fitting:
                packed[min(fitting, key=lambda n: (room[n], n))].append((number, rest))
            else:
                packed.append([(number, rest)])
        assert len(rows) == full
        return rows + [[piece for _, piece in sorted(row, key=lambda one: one[0])] for row in packed]
