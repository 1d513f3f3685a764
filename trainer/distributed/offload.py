"""The residual stream between blocks waits in the host's memory for the backward: a fifth of what is left on a GPU
where blocks are recomputed, and the part that grows with the length of a row.

A block's input is copied out while the block computes, and back while the block behind it is in its backward. Copies
run on a stream of their own, from and to pinned memory; on a CPU they are plain copies. Nothing is rounded: losses and
gradients keep every bit.

By saved-tensor hooks (docs.pytorch.org/tutorials/intermediate/autograd_saved_tensors_hooks_tutorial.html), around the
call of a block, so that compiled and recomputed blocks are handled alike.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

#: Streams that are on the GPU at once in the backward: of the block at work, and of the one before it.
ON_DEVICE = 2


class _Away:
    """One stream on its way to the host, there, or on its way back; gone when autograd lets go of it."""

    def __init__(self, tensor: Tensor, before: "_Away | None", copies: "torch.cuda.Stream | None") -> None:
        self.before = before  # of the block before, which the backward comes to next
        self.device, self.copies = tensor.device, copies
        self.back: Tensor | None = None
        self.arrived: torch.cuda.Event | None = None
        if copies is None:
            self.host = tensor.clone()
            return
        self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(copies):
            self.host.copy_(tensor, non_blocking=True)
        tensor.record_stream(copies)

    def call_back(self) -> None:
        """Begin the way back, if it has not begun."""
        if self.back is not None:
            return
        if self.copies is None:
            self.back = self.host
            return
        self.copies.wait_stream(torch.cuda.current_stream(self.device))  # what was freed there may be written here
        with torch.cuda.stream(self.copies):
            self.back = torch.empty(self.host.shape, dtype=self.host.dtype, device=self.device)
            self.back.copy_(self.host, non_blocking=True)
            self.arrived = self.copies.record_event()

    def fetch(self) -> Tensor:
        """The tensor on its device again, for what is launched from here on; the one before is called back, too."""
        self.call_back()
        assert self.back is not None
        if self.arrived is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(self.arrived)
            self.back.record_stream(current)
        if self.before is not None:
            self.before.call_back()
        return self.back


class ResidualOffload:
    """The streams of one model, whose blocks are called one after the other, and back in the other order."""

    def __init__(self) -> None:
        self._away: WeakSet[_Away] = WeakSet()
        self._newest: Callable[[], _Away | None] = lambda: None
        self._copies: torch.cuda.Stream | None = None

    @property
    def host_bytes(self) -> int:
        """What lies in the host's memory."""
        return sum(away.host.nbytes for away in self._away)

    def of(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The forward of a block, whose first argument does not stay on the device for its backward."""

        def run(x: Tensor, *others: Any) -> Tensor:
            if not (torch.is_grad_enabled() and x.requires_grad):
                return forward(x, *others)
            if x.is_cuda and self._copies is None:
                self._copies = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
            own: list[_Away] = []  # one, whatever saves x and however often
            of_x = _told(x)  # not x itself: autograd keeps `pack` until the backward, and all that it refers to

            def pack(saved: Tensor) -> Tensor | _Away:
                if _told(saved) != of_x:
                    return saved
                if not own:
                    own.append(_Away(saved, self._newest(), self._copies))
                    self._newest = ref(own[0])
                    self._away.add(own[0])
                return own[0]

            with saved_tensors_hooks(pack, _unpack):
                return forward(x, *others)

        return run


def _told(tensor: Tensor) -> tuple[int, torch.Size, torch.dtype]:
    """What tells a tensor from others that are there at the same time."""
    return tensor.data_ptr(), tensor.shape, tensor.dtype


def _unpack(packed: Tensor | _Away) -> Tensor:
    return packed.fetch() if isinstance(packed, _Away) else packed
