"""The row exchange of GPUs of one host, by their copy engines: products keep all multiprocessors.

A collective of NCCL runs as a kernel on multiprocessors that the products beside it then lack, and they wait for each
other's last. Copies from one GPU's memory into another's take none. So each gradient's rows are copied to their owner,
into a place that is kept for each pair of ranks, and the owner adds up in float32 and rounds once, in the same order
every time; new rows are copied straight into the weights of all, which lie in memory that GPUs of a host share (torch's
symmetric memory). A copy is told of by a signal (stream_signals.py), which a stream of the other GPU waits for: no host
and no multiprocessor does. Sums are followed by their norm at once, while most of the memory's rate is free.

What makes it safe, as tests/trainer/test_peer_copies.py shows in orders that it draws: nobody writes another's weights
before all have passed `AdamW.gradient_norm`, a sum over all ranks behind each backward; and nobody writes another's
place for gradients before it has its new rows, which that one sends after it has read the place.
"""

import os
from collections.abc import Sequence
from itertools import permutations
from typing import Any, Literal

import torch
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor, nn

from bamba_data.errors import UserError

from ..compiled import fused
from .fsdp import World
from .row_exchange import CollectiveExchange, RowExchange, norms
from .row_shares import own_rows
from .stream_signals import StreamSignals, has_driver, met

GROUPS = 32  # of channels for new rows, at most; behind them each matrix has one for its gradient's parts
EARLY = 2  # of them are sent beneath the update


class PeerCopyExchange:
    """Gradients in bfloat16 as said above; in float32, those of several micro-batches, by collectives, since a place
    for them would take twice the memory. Makes the parameters' memory anew, with their values.

    Args:
        groups: The matrices of each group.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], world: World) -> None:
        self.world = world
        self._peers = [(world.rank + step) % world.size for step in range(1, world.size)]
        self._collectives = CollectiveExchange(groups, world)
        parameters = [parameter for group in groups for parameter in group]
        self._channel: dict[Tensor, int] = {
            parameter: number * min(GROUPS, len(groups)) // len(groups)
            for number, group in enumerate(groups)
            for parameter in group
        }
        self._channel_of_group = [number * min(GROUPS, len(groups)) // len(groups) for number in range(len(groups))]
        self.signals = StreamSignals(world, GROUPS + len(parameters))
        self._parts_channel: dict[Tensor, int] = {one: GROUPS + number for number, one in enumerate(parameters)}
        self._norms: dict[Tensor, Tensor] = {}  # of the sums of this step
        self._start: dict[Tensor, int] = {}  # of a parameter among the weights
        elements = 0
        for parameter in parameters:
            self._start[parameter] = elements
            elements += parameter.numel()
        self._weights = symmetric_memory.empty(elements, dtype=torch.bfloat16, device=world.device)
        self._weights_peers = met(self._weights)
        self._parts: Tensor | None = None
        self._parts_peers: Any = None
        for parameter in parameters:
            start = self._start[parameter]
            place = self._weights[start : start + parameter.numel()].view(parameter.shape)
            parameter.data = place.copy_(parameter.detach())
        self._copying, self._adding = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._unsent: list[Tensor] = []
        self._sending: int | None = None  # the channel whose rows are being sent
        self._awaited: set[int] = set()  # channels of which other ranks send rows

    @property
    def device_bytes(self) -> int:
        return self.signals.device_bytes + self._weights.nbytes + (0 if self._parts is None else self._parts.nbytes)

    def _places(self) -> Tensor:
        """One for each peer's part of the own rows of each matrix (`place_of`). They are made with the first gradient,
        which all ranks have at the same point."""
        if self._parts is None:
            share = self._weights.numel() // self.world.size
            self._parts = symmetric_memory.empty(
                share * len(self._peers), dtype=torch.bfloat16, device=self.world.device
            )
            self._parts_peers = met(self._parts)
        return self._parts

    def add_up(self, parameter: Tensor) -> None:
        grad = parameter.grad
        assert grad is not None
        if grad.dtype != torch.bfloat16:
            self._collectives.add_up(parameter)
            return
        places, flat = self._places(), grad.view(-1)
        share = parameter.numel() // self.world.size
        first = self._start[parameter] // self.world.size * len(self._peers)
        made = torch.cuda.current_stream().record_event()
        self._copying.wait_event(made)
        with torch.cuda.stream(self._copying):
            for peer in self._peers:
                start = place_of(first, share, self.world.rank, peer, self.world.size)
                place = self._parts_peers.get_buffer(peer, (share,), torch.bfloat16, start)
                place.copy_(flat[peer * share : (peer + 1) * share], non_blocking=True)
                self.signals.give(peer, self._parts_channel[parameter])
        rows = own_rows(parameter, self.world)
        assert rows is not None
        self._adding.wait_event(made)
        with torch.cuda.stream(self._adding):
            for peer in self._peers:
                self.signals.wait(peer, self._parts_channel[parameter])
            wide = 16 if share % 16 == 0 else 1  # a known width: one compiled kernel with wide loads
            parts = places[first : first + share * len(self._peers)].view(len(self._peers), -1, wide)
            _add_parts(grad[rows].view(-1, wide), parts)
            (self._norms[parameter],) = norms([grad[rows]])

    def added_up(self) -> dict[Tensor, Tensor]:
        self._collectives.added_up()
        for stream in (self._copying, self._adding):
            torch.cuda.current_stream().wait_stream(stream)
        known, self._norms = self._norms, {}
        return known

    def send(self, parameter: Tensor) -> None:
        """Of the first groups at once, of all others when the update is over: it wants the memory's whole rate, and the
        forward that follows leaves most of it."""
        self._unsent.append(parameter)
        if self._channel[parameter] < EARLY:
            self._send_all()

    def sent(self) -> None:
        self._send_all()
        self._signal()

    def _send_all(self) -> None:
        self._copying.wait_stream(torch.cuda.current_stream())
        for parameter in self._unsent:
            channel, rows = self._channel[parameter], own_rows(parameter, self.world)
            assert rows is not None
            if channel != self._sending:
                self._signal()
                self._sending = channel
            own = parameter.detach()[rows].view(-1)
            start = self._start[parameter] + self.world.rank * own.numel()
            with torch.cuda.stream(self._copying):
                for peer in self._peers:
                    place = self._weights_peers.get_buffer(peer, (own.numel(),), torch.bfloat16, start)
                    place.copy_(own, non_blocking=True)
        self._unsent.clear()

    def _signal(self) -> None:
        """All rows of the channel that was being sent are on their way."""
        if self._sending is None:
            return
        with torch.cuda.stream(self._copying):
            for peer in self._peers:
                self.signals.give(peer, self._sending)
        self._awaited.add(self._sending)  # all ranks send the same
        self._sending = None

    def arrived(self, group: int) -> None:
        channel = self._channel_of_group[group]
        if channel in self._awaited:
            self._awaited.remove(channel)
            for peer in self._peers:
                self.signals.wait(peer, channel)

    def settle(self) -> None:
        for group in range(len(self._channel_of_group)):
            self.arrived(group)
        torch.cuda.current_stream().wait_stream(self._copying)


def place_of(first: int, share: int, sender: int, owner: int, ranks: int) -> int:
    """Where at `owner` the part of `sender` begins, of a matrix whose places begin at `first` and whose ranks own
    `share` elements each."""
    return first + ((sender - owner) % ranks - 1) * share


How = Literal["auto", "collectives", "copies"]


def exchange_of(groups: Sequence[Sequence[nn.Parameter]], world: World, how: How) -> RowExchange:
    """As `compute.row_exchange` says.

    Raises:
        UserError: Copies are wanted where they cannot be.
    """
    kind = PeerCopyExchange if decided(how, world.size, world.device) == "copies" else CollectiveExchange
    return kind(groups, world)


def decided(how: How, ranks: int, device: torch.device) -> Literal["collectives", "copies"]:
    """What `how` comes to; the same on all ranks, by what a launcher and a host have alike.

    Raises:
        UserError: Copies are wanted where they cannot be.
    """
    why = _no_copies(ranks, device)
    if how == "copies" and why:
        raise UserError(f"compute.row_exchange: no copies from GPU to GPU here: {why}. Set it to auto or collectives")
    return "collectives" if how == "collectives" or why else "copies"


def _no_copies(ranks: int, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "ranks compute on a CPU"
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if local_ranks != ranks:
        return f"{local_ranks} of {ranks} ranks are on this host"
    if not has_driver():
        return "the package cuda-bindings is not there, which torch for CUDA brings"
    if torch.cuda.device_count() < ranks:
        return f"a process sees {torch.cuda.device_count()} GPUs of {ranks}"
    apart = [
        (one, two) for one, two in permutations(range(ranks), 2) if not torch.cuda.can_device_access_peer(one, two)
    ]
    return f"GPUs {apart[0][0]} and {apart[0][1]} have no way to each other's memory" if apart else None


@fused
def _add_parts(total: Tensor, parts: Tensor) -> None:
    """In float32, rounded once."""
    wide = total.float()
    for part in parts.unbind():
        wide = wide + part.float()
    total.copy_(wide)
