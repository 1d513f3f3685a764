"""A copy of the state in the host's memory, made beside the computation, that a thread can write at its leisure.

Buffers are taken once (pinned, where the state is on a GPU) and used for every save; of what several ranks hold, one
has them (`writers`). They lie in slabs: torch rounds each piece of pinned memory up to a power of two, which for the
matrices of Bamba-9B, one by one, would be a quarter more than they are. The copies run on a stream of their own; `wait`
makes the computation on the device, not the host, wait for their end.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from ..distributed.fsdp import World, local
from .writers import written_by

SLAB_BYTES = 2**32
ALIGNED_BYTES = 512


class HostStaging:
    """Holds one copy at a time, in as much memory of the host as what this rank writes takes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cuda = world.device.type == "cuda"
        self._meshes: dict[tuple[int, ...], DeviceMesh] = {}  # on the host, as those of the state
        self._stream = torch.cuda.Stream() if self._cuda else None  # type: ignore[no-untyped-call]
        self._copied: torch.cuda.Event | None = None
        self._buffers: dict[str, Tensor] = {}

    def make_meshes(self, state: dict[str, Tensor]) -> None:
        """For shards on the host; a collective call."""
        for tensor in state.values():
            if isinstance(tensor, DTensor) and (shape := tensor.device_mesh.shape) not in self._meshes:
                self._meshes[shape] = init_device_mesh("cpu", shape)

    def take_memory(self, state: dict[str, Tensor]) -> None:
        """Some seconds for tens of gigabytes, better before the first step than in it; any thread may do it."""
        wanted = written_by(self._world.rank, self._world.size, state) - self._buffers.keys()
        mine = {name: local(state[name]) for name in sorted(wanted)}
        sizes, places = packed({name: tensor.nbytes for name, tensor in mine.items()})
        slabs = [torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda) for size in sizes]
        for slab in slabs if not self._cuda else ():
            slab.zero_()  # what is pinned is there; other memory comes with the first write, in the first save
        for name, (number, first) in places.items():
            like = mine[name]
            self._buffers[name] = slabs[number][first : first + like.nbytes].view(like.dtype).view(like.shape)

    def copy(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Begin to copy what this rank writes of `state` as it is at this point of the computation; `settle` before the
        copy is read."""
        self.make_meshes(state)
        self.take_memory(state)
        kept = {name: tensor for name, tensor in state.items() if name in self._buffers}
        if self._stream is None:
            for name, tensor in kept.items():
                self._buffers[name].copy_(local(tensor))
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for name, tensor in kept.items():
                    self._buffers[name].copy_(local(tensor), non_blocking=True)
            self._copied = self._stream.record_event()
        return {name: self._like(tensor, self._buffers[name]) for name, tensor in kept.items()}

    def _like(self, tensor: Tensor, buffer: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return buffer
        mesh = self._meshes[tensor.device_mesh.shape]
        return DTensor.from_local(
            buffer, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def wait(self) -> None:
        """What is computed from here on may change the state: on the device it comes after the copy."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def settle(self) -> None:
        """Wait, on the host, until the copy is whole."""
        if self._copied is not None:
            self._copied.synchronize()


def packed(sizes: Mapping[str, int]) -> tuple[list[int], dict[str, tuple[int, int]]]:
    """Where buffers of so many bytes lie: the bytes of each slab, and the slab and first byte of each buffer.

    A slab has `SLAB_BYTES` at most; a larger buffer has one for itself. The largest come first, each into the first
    slab that has room.
    """
    slabs: list[int] = []
    places: dict[str, tuple[int, int]] = {}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        whole = -(-size // ALIGNED_BYTES) * ALIGNED_BYTES
        slab = next((number for number, used in enumerate(slabs) if used + whole <= SLAB_BYTES), len(slabs))
        if slab == len(slabs):
            slabs.append(0)
        places[name] = slab, slabs[slab]
        slabs[slab] += whole
    return slabs, places
