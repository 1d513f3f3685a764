"""One tensor of a foreign model as rows of one of ours: how it is taken out, and how it is put back, bit for bit."""

from typing import NamedTuple

import torch
from torch import Tensor


class TensorMapping(NamedTuple):
    """`theirs` is rows [start, end) of `ours`.

    Attributes:
        middle: Theirs has a dimension of 1 more in the middle.
        head_order: In each head, row j of theirs is row `head_order[j]` of ours; None where the order is the same.
        head_scale: In each head, row j of theirs is its row of ours times `head_scale[j]`; None where nothing is
            multiplied, and every bit is kept.
        linear: Theirs is the weight of a matrix product between hidden states, which may be quantized. The embedding,
            the head and all vectors are not.
    """

    ours: str
    theirs: str
    start: int
    end: int
    middle: bool = False
    head_order: tuple[int, ...] | None = None
    linear: bool = False
    head_scale: tuple[float, ...] | None = None

    def out_of(self, ours: Tensor) -> Tensor:
        return self.in_their_shape(ours[self.start : self.end])

    def in_their_shape(self, part: Tensor) -> Tensor:
        """Rows [start, end) of ours, as theirs has them."""
        if self.head_order is not None:
            part = self._by_head(part)[:, list(self.head_order)].flatten(0, 1)
        if self.head_scale is not None:
            part = part * self._scale_of(part)
        return part.unsqueeze(1) if self.middle else part

    def into(self, ours: Tensor, theirs: Tensor) -> None:
        part = ours[self.start : self.end]
        if self.head_scale is not None:
            theirs = theirs.to(part.dtype) / self._scale_of(theirs)
        if self.head_order is not None:
            self._by_head(part)[:, list(self.head_order)] = self._by_head(theirs).to(part.dtype)
        else:
            part.copy_(theirs.squeeze(1) if self.middle else theirs)

    def _by_head(self, part: Tensor) -> Tensor:
        assert self.head_order is not None
        return part.view(-1, len(self.head_order), *part.shape[1:])

    def _scale_of(self, part: Tensor) -> Tensor:
        """`head_scale` for every head, in the shape of a column."""
        assert self.head_scale is not None
        heads = part.shape[0] // len(self.head_scale)
        return torch.tensor(self.head_scale * heads, dtype=torch.float32, device=part.device)[:, None]
