"""A feed of made-up rows for tests of the trainer: row g is a pure function of g, and ranks share the rows of a step
evenly, with padding rows where they do not divide."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.context.group import ALONE, ContextGroup


class Synthetic:
    """Rows of three short documents that count upwards, so that there is something to learn; two sources."""

    sources = ("up", "down")

    def __init__(
        self,
        row_tokens: int,
        batch_rows: int,
        rank: int,
        world_size: int,
        vocab_size: int,
        context: ContextGroup = ALONE,
    ) -> None:
        self.context = context
        self.row_tokens, self.batch_rows, self.vocab_size = row_tokens, batch_rows, vocab_size
        self.rank, self.world_size = rank, world_size
        self.steps = 0
        self.skipped: list[int] = []  # the first rows of the batches that are left out

    @property
    def row(self) -> int:
        return self.steps * self.batch_rows

    def epochs(self, row: int) -> dict[str, float]:
        """As if 60 rows were an epoch of each source."""
        return dict.fromkeys(self.sources, row / 2 / 60)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        per_rank = -(-self.batch_rows // self.world_size)
        while True:
            while self.row in self.skipped:
                self.steps += 1
            first = self.row
            mine = range(first + self.rank, first + self.batch_rows, self.world_size)
            rows = [*mine, *[-1] * (per_rank - len(mine))]
            self.steps += 1
            yield {name: torch.stack(parts) for name, parts in self._columns(rows).items()}

    def _columns(self, rows: list[int]) -> dict[str, list[Tensor]]:
        columns: dict[str, list[Tensor]] = {}
        for row in rows:
            for name, value in self._row(row).items():
                value = value.chunk(self.context.ranks)[self.context.rank] if value.dim() else value
                columns.setdefault(name, []).append(value)
        return columns

    def _row(self, row: int) -> dict[str, Tensor]:
        tokens = self.row_tokens
        source = -1 if row < 0 else row % 2
        generator = torch.Generator().manual_seed(row + 1)
        documents = (torch.arange(tokens) * 3 // tokens).int()
        starts = torch.randint(0, self.vocab_size, (3,), generator=generator)[documents.long()]
        positions = torch.cat([torch.arange(int((documents == number).sum())) for number in range(3)])
        ids = (starts + positions * (1 if source == 0 else -1)) % self.vocab_size
        labels = torch.cat([ids[1:], ids[:1]])
        labels[torch.cat([documents[1:] != documents[:-1], torch.tensor([True])])] = -100
        if row < 0:
            labels[:] = -100
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": positions,
            "seq_idx": documents,
            "row": torch.tensor(row),
            "source": torch.tensor(source),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.skipped = state["steps"], list(state["skipped"])

    def skip(self, first_row: int, rows: int, why: str) -> None:
        self.skipped = sorted({*self.skipped, *range(first_row, first_row + rows, self.batch_rows)})

    def held_out(self) -> tuple[Sequence[str], Iterable[dict[str, Tensor]]]:
        columns = self._columns([10**9 + self.rank, 10**9 + 1 + self.rank])
        return self.sources, [{name: torch.stack(parts) for name, parts in columns.items()}]

    def close(self) -> None:
        """Nothing is open."""
