"""A rank's rows of one step, as tensors, and as the micro-batches that the model takes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..kernels.checks import check_documents
from ..loss import IGNORED


@dataclass(frozen=True, slots=True)
class Batch:
    """input_ids, labels, positions: (rows, tokens) int64; documents: (rows, tokens) int32, ascending along a row;
    row: (rows,) int64, the index in the global order, -1 for padding; sources: (rows,) int64, -1 for padding."""

    input_ids: Tensor
    labels: Tensor
    positions: Tensor
    documents: Tensor
    row: Tensor
    sources: Tensor

    @classmethod
    def of(cls, loaded: Mapping[str, Tensor]) -> "Batch":
        """From what the loader yields; `UserError` where document ids do not ascend along a row."""
        check_documents(loaded["seq_idx"], "a batch's seq_idx")
        return cls(
            loaded["input_ids"].long(),
            loaded["labels"].long(),
            loaded["position_ids"].long(),
            loaded["seq_idx"].int(),
            loaded["row"].long(),
            loaded["source"].long(),
        )

    def __len__(self) -> int:
        return len(self.row)

    @property
    def targets(self) -> int:
        """How many tokens have a label."""
        return int((self.labels >= 0).sum())

    def to(self, device: torch.device) -> "Batch":
        moved = (getattr(self, name) for name in self.__slots__)
        if device.type == "cuda":
            return Batch(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in moved))
        return Batch(*(tensor.to(device) for tensor in moved))

    def micro(self, rows: int) -> list["Batch"]:
        """Pieces of exactly `rows` rows, so that every one has the same shape; the last is filled up with padding rows,
        and there is at least one."""
        whole = max(1, -(-len(self) // rows)) * rows
        missing = whole - len(self)
        filled = Batch(
            pad(self.input_ids, (0, 0, 0, missing)),
            pad(self.labels, (0, 0, 0, missing), value=IGNORED),
            pad(self.positions, (0, 0, 0, missing)),
            pad(self.documents, (0, 0, 0, missing)),
            pad(self.row, (0, missing), value=-1),
            pad(self.sources, (0, missing), value=-1),
        )
        return [
            Batch(*(getattr(filled, name)[at : at + rows] for name in self.__slots__)) for at in range(0, whole, rows)
        ]
