"""A rank's rows of one step, as tensors, and as the micro-batches that the model takes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..distributed.consistency import RowEnds
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

    def ends(self) -> list[RowEnds]:
        """Of each row."""
        columns = (one[:, at].tolist() for at in (0, -1) for one in (self.documents, self.positions))
        return [RowEnds(self.documents.shape[1], *ends) for ends in zip(*columns, strict=True)]

    def to(self, device: torch.device) -> "Batch":
        moved = (getattr(self, name) for name in self.__slots__)
        if device.type == "cuda":
            return Batch(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in moved))
        return Batch(*(tensor.to(device) for tensor in moved))

    def micro(self, rows: int) -> list["Batch"]:
        """Pieces of exactly `rows` rows, so that every one has the same shape; the last is filled up with padding rows,
        and there is at least one."""
        whole = max(1, -(-len(self) // rows)) * rows
        padding = {"labels": IGNORED, "row": -1, "sources": -1}
        filled = []
        for name in self.__slots__:
            tensor: Tensor = getattr(self, name)
            down = (0, 0) * (tensor.dim() - 1) + (0, whole - len(self))  # `pad` counts dimensions from the last
            filled.append(pad(tensor, down, value=padding.get(name, 0)))
        return [Batch(*(tensor[at : at + rows] for tensor in filled)) for at in range(0, whole, rows)]


class SourceSums:
    """Losses and real targets of a step or an evaluation, summed by source, in float64 on the device.

    Args:
        sources: How many there are, in the loader's order.
    """

    def __init__(self, sources: int, device: torch.device) -> None:
        self.sources = sources
        # One place more, which padding rows fall into: their source, -1, is the last index.
        self._losses = torch.zeros(sources + 1, dtype=torch.float64, device=device)
        self._targets = torch.zeros_like(self._losses)

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Count a batch in; losses: (rows, tokens), 0 where there is no label."""
        bins = batch.sources.remainder(self.sources + 1)
        self._losses.index_add_(0, bins, losses.sum(1, dtype=torch.float64))
        self._targets.index_add_(0, bins, (batch.labels >= 0).sum(1).double())

    def vectors(self) -> tuple[Tensor, Tensor]:
        """(sums of losses, counts of targets), each (sources,)."""
        return self._losses[:-1], self._targets[:-1]
