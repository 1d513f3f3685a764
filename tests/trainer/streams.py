"""GPUs of one host as queues: what a program hands to its streams is done later, in any order that streams allow.

A real GPU shows one order, mostly the same one. `run` draws orders, so a missing wait is found as a wrong value, and a
circle of waits as queues that nobody can go on with. What is simulated: streams, events, copies into other GPUs'
memory, and numbers that streams write there and wait for.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.distributed import peer_copies, stream_signals

Ready = Callable[[], bool]


@dataclass(eq=False)
class Event:
    done: bool = False


@dataclass(eq=False)
class Stream:
    """First in, first out."""

    queue: deque[tuple[Ready, Callable[[], Any]]] = field(default_factory=deque)

    def hand(self, run: Callable[[], Any], ready: Ready = lambda: True) -> None:
        self.queue.append((ready, run))

    def record_event(self) -> Event:
        event = Event()
        self.hand(lambda: setattr(event, "done", True))
        return event

    def wait_event(self, event: Event) -> None:
        self.hand(lambda: None, lambda: event.done)

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())


class Gpu:
    """One rank's: its streams, and the memory that others reach, in the order in which it was made."""

    def __init__(self) -> None:
        self.main = Stream()
        self.streams = [self.main]
        self.current = self.main
        self.shared: list[Tensor] = []


class Host:
    """All GPUs of it. The calls of torch.cuda are those of `rank`. With `one_queue` all streams of a GPU share a queue
    of the hardware, as some of many streams do: one that waits holds up the others, in the order of their calls."""

    def __init__(self, ranks: int, patch: pytest.MonkeyPatch, *, one_queue: bool = False) -> None:
        self.gpus = [Gpu() for _ in range(ranks)]
        self.one_queue = one_queue
        self.rank = 0
        self._arrived: dict[int, int] = {}
        add = peer_copies._add_parts.plain
        patch.setattr(torch.cuda, "Stream", self._stream)
        patch.setattr(torch.cuda, "current_stream", lambda: self.gpu.current)
        patch.setattr(torch.cuda, "stream", self._within)
        patch.setattr(torch.cuda, "synchronize", lambda device: None)
        patch.setattr(peer_copies.symmetric_memory, "empty", self._empty)
        for module in (peer_copies, stream_signals):
            patch.setattr(module, "met", lambda tensor: Shared(self, len(self.gpu.shared) - 1))
        patch.setattr(peer_copies, "norms", lambda grads: [self._norm(grad) for grad in grads])
        patch.setattr(stream_signals, "write", self._write)
        patch.setattr(stream_signals, "wait_for", self._wait_for)
        patch.setattr(peer_copies, "_add_parts", lambda total, parts: self.gpu.current.hand(lambda: add(total, parts)))

    @property
    def gpu(self) -> Gpu:
        return self.gpus[self.rank]

    def _stream(self) -> Stream:
        if self.one_queue:
            return Stream(self.gpu.main.queue)
        self.gpu.streams.append(stream := Stream())
        return stream

    @contextmanager
    def _within(self, stream: Stream) -> Iterator[None]:
        before, self.gpu.current = self.gpu.current, stream
        yield
        self.gpu.current = before

    def _empty(self, elements: int, dtype: torch.dtype, device: Any) -> Tensor:
        unwritten = torch.nan if dtype.is_floating_point else -1
        self.gpu.shared.append(memory := torch.full((elements,), unwritten, dtype=dtype))
        return memory

    def _norm(self, grad: Tensor) -> Tensor:
        norm = torch.full((), torch.nan)
        self.gpu.current.hand(lambda: norm.copy_(grad.float().norm()))
        return norm

    def _write(self, place: "Place", number: int) -> None:
        self.gpu.current.hand(lambda: place.memory.fill_(number))

    def _wait_for(self, place: Tensor, number: int) -> None:
        self.gpu.current.hand(lambda: None, lambda: int(place) >= number)

    def all_reduce(self, number: int) -> None:
        """On the current stream of each rank: it goes on when all have come there."""
        self.gpu.current.hand(lambda: self._arrived.update({number: self._arrived.get(number, 0) + 1}))
        self.gpu.current.hand(lambda: None, lambda: self._arrived[number] == len(self.gpus))

    def run(self, seed: int) -> None:
        """Until all is done. AssertionError where nothing can go on."""
        draw = random.Random(seed)
        streams = [stream for gpu in self.gpus for stream in gpu.streams]
        slow = {id(stream): draw.choice((1.0, 1.0, 0.2, 0.02)) for stream in streams}  # some are far behind
        while waiting := [stream for stream in streams if stream.queue]:
            able = [stream for stream in waiting if stream.queue[0][0]()]
            assert able, "all streams wait for each other"
            stream = draw.choices(able, [slow[id(one)] for one in able])[0]
            stream.queue.popleft()[1]()


@dataclass(frozen=True)
class Shared:
    """What a rank knows of the memory that all ranks made as their `number`-th."""

    host: Host
    number: int

    def get_buffer(self, rank: int, sizes: Sequence[int], dtype: torch.dtype, start: int) -> "Place":
        return Place(self.host, rank, self.number, start, sizes[0])


@dataclass(frozen=True)
class Place:
    """A part of another rank's memory."""

    host: Host
    rank: int
    number: int
    start: int
    elements: int

    @property
    def memory(self) -> Tensor:
        return self.host.gpus[self.rank].shared[self.number][self.start : self.start + self.elements]

    def copy_(self, source: Tensor, *, non_blocking: bool) -> None:
        self.host.gpu.current.hand(lambda: self.memory.copy_(source))
