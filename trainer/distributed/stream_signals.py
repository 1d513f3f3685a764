"""Signals between the GPUs of a host that no multiprocessor gives and none waits for.

A signal of torch's symmetric memory is a kernel: whoever waits for it holds a place on a multiprocessor that a product
beside it may want (218 of the 819 ms of a step of two H200, where one of them was a little ahead). CUDA's stream memory
operations are done by the part of a GPU that hands out its work: a stream writes a number into another GPU's memory
when all that came before in it is done, and another stream stands still until the number is there.

Numbers only go up, so nothing is taken back, and whoever gives a signal never waits.
"""

from collections import Counter
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor

from bamba_data.errors import UserError

from .fsdp import World


class StreamSignals:
    """Of each rank to each other, on so many channels. All ranks make theirs at the same point."""

    def __init__(self, world: World, channels: int) -> None:
        self._own = symmetric_memory.empty(world.size * channels, dtype=torch.int32, device=world.device).zero_()
        wait_for(self._own[:1], 0)  # it is there: so a driver that cannot do it says so here, and in no backward
        self._others = met(self._own)
        self._rank, self._channels = world.rank, channels
        self._given: Counter[tuple[int, int]] = Counter()
        self._awaited: Counter[tuple[int, int]] = Counter()

    @property
    def device_bytes(self) -> int:
        return self._own.nbytes

    def give(self, rank: int, channel: int) -> None:
        """When the current stream has come here."""
        self._given[rank, channel] += 1
        place = self._others.get_buffer(rank, (1,), torch.int32, self._rank * self._channels + channel)
        write(place, self._given[rank, channel])

    def wait(self, rank: int, channel: int) -> None:
        """What is handed to the current stream from here on comes behind that rank's next signal of the channel."""
        self._awaited[rank, channel] += 1
        place = rank * self._channels + channel
        wait_for(self._own[place : place + 1], self._awaited[rank, channel])

    def all_taken(self) -> bool:
        """No signal came that was not waited for. Reads the device's memory."""
        numbers = self._own.view(-1, self._channels)
        return all(
            (int(number) - self._awaited[rank, channel]) % 2**32 == 0
            for rank, of_rank in enumerate(numbers)
            for channel, number in enumerate(of_rank)
        )


def has_driver() -> bool:
    """Whether the package is there that hands stream memory operations to CUDA's driver."""
    try:
        return find_spec("cuda.bindings.driver") is not None
    except ModuleNotFoundError:
        return False


def met(tensor: Tensor) -> Any:
    """All ranks' memory like this, within reach of each. The host waits for the device: what clears the memory waits on
    the stream, and behind a backward that is still to come it would clear what others wrote."""
    everyone = torch.distributed.group.WORLD
    assert everyone is not None
    torch.cuda.synchronize(tensor.device)
    return symmetric_memory.rendezvous(tensor, everyone)


def write(place: Tensor, number: int) -> None:
    """Into another GPU's memory, or the own, when the current stream has come here."""
    from cuda.bindings import driver  # not on a machine without GPUs

    checked(driver.cuStreamWriteValue32(_stream(), place.data_ptr(), number % 2**32, 0))


def wait_for(place: Tensor, number: int) -> None:
    """The current stream stands still until there is this number in the own memory, or a later one (round 2**32)."""
    from cuda.bindings import driver

    flags = driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ
    checked(driver.cuStreamWaitValue32(_stream(), place.data_ptr(), number % 2**32, flags))


def _stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def checked(result: tuple[Any, ...]) -> None:
    """What a call of the driver answered, whose first is its error.

    Raises:
        UserError: There is one.
    """
    if int(result[0]) != 0:
        raise UserError(
            f"compute.row_exchange: this GPU's driver does no stream memory operations, by which copies are told of: "
            f"{result[0]}. Set it to collectives"
        )
