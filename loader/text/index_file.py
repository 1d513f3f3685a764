"""One parquet file of a text source into blocks: runs of rows of one row group, with the tokens of each document.

A block ends with the document that reaches `block_tokens`; what a row group has left at its end, if less than half of
that, joins the block before it. A sample of the ids is compared with the reference tokenizer
(bamba_data/tokenization/reference_sample.py).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.document import Document, Ledger, Reject
from bamba_data.error_budget import SAMPLES, explain, is_hopeless
from bamba_data.errors import HopelessInput
from bamba_data.format.holdout_candidates import LIMIT, id_hash
from bamba_data.format.shard import block_digest
from bamba_data.recipe import BadInput
from bamba_data.sources.parquet import ParquetRows
from bamba_data.tokenization.dedup import SeenIds
from bamba_data.tokenization.encode import Encoder, batches
from bamba_data.tokenization.reference_sample import ReferenceSample
from bamba_data.tokenization.tokenizer import Backend, Tokenizer


@dataclass
class _Run:
    """A block being filled: rows [first_row, first_row + rows) of a row group."""

    row_group: int
    first_row: int
    rows: int = 0
    tokens: int = 0
    ids: list[NDArray[Any]] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    candidates: list[dict[str, int]] = field(default_factory=list)

    def leave_out(self) -> None:
        self.left_out.append(self.rows)
        self.rows += 1

    def keep(self, ids: NDArray[Any], document_id: str) -> None:
        if (hashed := id_hash(document_id)) < LIMIT:
            self.candidates.append({"document": len(self.ids), "tokens": len(ids), "hash": hashed})
        self.ids.append(ids)
        self.tokens += len(ids)
        self.rows += 1

    def join(self, following: "_Run") -> None:
        """Take up the run right after this one."""
        documents = len(self.ids)
        self.left_out += [row + self.rows for row in following.left_out]
        self.candidates += [one | {"document": one["document"] + documents} for one in following.candidates]
        self.ids += following.ids
        self.tokens += following.tokens
        self.rows += following.rows

    def row(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        counts = np.fromiter((len(ids) for ids in self.ids), np.uint32, len(self.ids))
        tokens = np.concatenate(self.ids).astype(dtype, copy=False)
        return {
            "row_group": self.row_group,
            "first_row": self.first_row,
            "rows": self.rows,
            "documents": len(counts),
            "tokens": self.tokens,
            "digest": bytes.fromhex(block_digest(tokens.data, counts)),
            "left_out": self.left_out,
            "candidates": self.candidates,
            "lengths": counts,
        }


class FileIndexer:
    """Used once: after `run`, `blocks` are rows for the schema PART, and `ledger` balances."""

    def __init__(self, path: str, rules: BadInput, block_tokens: int, tokenizer: Tokenizer, backend: Backend) -> None:
        self._path, self._rules, self._block_tokens = path, rules, block_tokens
        self._tokenizer, self._backend = tokenizer, backend
        self._held: list[_Run] = []  # of the row group at work: perhaps one that is full, and the one being filled
        self._sample = ReferenceSample(tokenizer, backend)
        self._bad: list[dict[str, Any]] = []
        self.blocks: list[dict[str, Any]] = []
        self.ledger = Ledger()

    def run(self, rows: ParquetRows) -> None:
        encoder = Encoder(self._backend, self._tokenizer.vocab_size, self._rules, SeenIds())
        for group, count in enumerate(rows.groups):
            self._held = [_Run(group, 0)]
            for batch in batches(rows.read_group(group, 0, count)):
                for item, outcome in zip(batch, encoder.encode(batch), strict=True):
                    self._take(item, outcome)
            self._end_group()
        self._sample.finish()

    def _take(self, item: Document | Reject, outcome: Any) -> None:
        run = self._held[-1]
        did = self.ledger.book(item, outcome, self._rules.action)
        if isinstance(outcome, Reject):
            if did == "dead_letter":
                self._check(outcome)
            run.leave_out()
            return
        assert isinstance(item, Document)
        self._sample.offer(f"{self._path}#{item.row}", item, outcome)
        run.keep(outcome, item.id)
        if run.tokens >= self._block_tokens:
            if len(self._held) > 1:
                self._save(self._held.pop(0))
            self._held.append(_Run(run.row_group, run.first_row + run.rows))

    def _check(self, bad: Reject) -> None:
        """Raises HopelessInput where to read on would only count more of the same."""
        if len(self._bad) < SAMPLES:
            self._bad.append(bad._asdict())
        if is_hopeless(self.ledger.bad, self.ledger.read, self._rules.max_bad_rate):
            raise HopelessInput(
                f"{self._path}: {self.ledger.bad:,} of its first {self.ledger.read:,} rows are bad, so it was not read "
                f"on: {explain(self._bad)}"
            )

    def _end_group(self) -> None:
        if len(self._held) > 1 and self._held[-1].tokens < self._block_tokens // 2:
            self._held[-2].join(self._held.pop())
        for run in self._held:
            self._save(run)

    def _save(self, run: _Run) -> None:
        if run.ids:
            self.blocks.append(run.row(self._tokenizer.dtype))
