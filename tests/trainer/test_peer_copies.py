"""Copies from GPU to GPU give every rank all rows, in whatever order streams go on; here on GPUs that are queues."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.streams import Host
from trainer.distributed.fsdp import World
from trainer.distributed.peer_copies import PeerCopyExchange
from trainer.distributed.row_shares import own_rows

STEPS = 3
GROUPS = (1, 2, 0, 3, 1)  # matrices of each module


def gradient(rank: int, matrix: int, step: int) -> int:
    return (rank + 2 * matrix + step) % 3 - 1


class Rank:
    """Hands steps to its GPU, and looks there at every value when it is read."""

    def __init__(self, rank: int, ranks: int, host: Host, *, swaps: bool = False) -> None:
        self.rank, self.ranks, self.host, self.swaps = rank, ranks, host, swaps
        host.rank = rank
        self.world = World(rank, ranks, torch.device("cpu"), None)  # type: ignore[arg-type]
        self.groups = [
            [nn.Parameter(torch.zeros(2 * ranks, 16 if matrix else 1).bfloat16()) for matrix in range(count)]
            for count in GROUPS
        ]
        self.matrices = [one for group in self.groups for one in group]
        self.exchange = PeerCopyExchange(self.groups, self.world)

    def total(self, matrix: int, step: int) -> int:
        return sum(gradient(rank, matrix, step) for rank in range(self.ranks))

    def holds(self, weight: Tensor, matrix: int, steps: int, when: str) -> None:
        wanted = float(sum(self.total(matrix, step) for step in range(steps)))
        assert weight.eq(wanted).all(), f"rank {self.rank}, matrix {matrix}, {when} of step {steps}: {weight.tolist()}"

    def look(self, matrix: int, step: int, when: str) -> None:
        weight = self.matrices[matrix].detach()
        self.host.gpu.current.hand(partial(self.holds, weight, matrix, step, when))

    def update(self, matrix: int, step: int, weight: Tensor, grad: Tensor) -> None:
        assert grad.eq(float(self.total(matrix, step))).all(), f"rank {self.rank}: the sum of matrix {matrix}"
        weight += grad

    def measured(self, norm: Tensor, matrix: int, step: int) -> None:
        own = self.matrices[matrix].numel() // self.ranks
        assert float(norm) == pytest.approx(abs(self.total(matrix, step)) * own**0.5)

    def step(self, step: int) -> None:
        """As `Stepper` does it."""
        self.host.rank = self.rank
        number = 0
        for group, matrices in enumerate(self.groups):
            self.exchange.arrived(group)
            for _ in matrices:
                self.look(number, step, "forward")
                number += 1
        made = list(reversed(list(enumerate(self.matrices))))
        if self.swaps:
            made[:2] = made[1::-1]
        for matrix, parameter in made:
            self.look(matrix, step, "backward")
            parameter.grad = torch.full_like(parameter, torch.nan)
            value = float(gradient(self.rank, matrix, step))
            self.host.gpu.current.hand(partial(parameter.grad.fill_, value))
            self.exchange.add_up(parameter)
        norms = self.exchange.added_up()
        for matrix, parameter in enumerate(self.matrices):
            self.host.gpu.current.hand(partial(self.measured, norms[parameter], matrix, step))
        self.host.all_reduce(step)
        for matrix, parameter in enumerate(self.matrices):
            rows = own_rows(parameter, self.world)
            assert rows is not None
            assert parameter.grad is not None
            self.host.gpu.current.hand(
                partial(self.update, matrix, step, parameter.detach()[rows], parameter.grad[rows])
            )
            self.exchange.send(parameter)
        self.exchange.sent()

    def end(self) -> None:
        self.host.rank = self.rank
        self.exchange.settle()
        for matrix in range(len(self.matrices)):
            self.look(matrix, STEPS, "end")
        for parameter in self.matrices:  # as one does who loads a checkpoint
            self.host.gpu.current.hand(partial(parameter.detach().fill_, torch.nan))


def take_steps(host: Host, seed: int, *, swaps: bool = False) -> None:
    members = [Rank(rank, len(host.gpus), host, swaps=swaps and rank == 1) for rank in range(len(host.gpus))]
    for step in range(STEPS):
        for member in members:
            member.step(step)
    for member in members:
        member.end()
    host.run(seed)
    assert all(member.exchange.signals.all_taken() for member in members)


@pytest.mark.parametrize(("ranks", "seed"), [*((2, seed) for seed in range(8)), (3, 0), (3, 1), (4, 2), (5, 3), (8, 4)])
def test_all_ranks_have_all_rows_in_any_order_and_none_waits_for_ever(
    ranks: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_steps(Host(ranks, monkeypatch), seed)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_streams_that_share_a_queue_of_the_hardware_wait_for_nothing_behind_them(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_steps(Host(ranks, monkeypatch, one_queue=True), 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rank_whose_backward_makes_two_gradients_the_other_way_round_adds_up_the_same(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    take_steps(Host(2, monkeypatch), seed, swaps=True)


def test_an_order_that_lacks_a_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wait for what a forward needs, some rank reads old rows."""
    monkeypatch.setattr(PeerCopyExchange, "arrived", lambda self, group: self._awaited.clear())
    with pytest.raises(AssertionError):
        take_steps(Host(2, monkeypatch), 0)
