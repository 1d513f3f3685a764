"""Which rank holds the others up while a run goes on: one whose GPU is slow, or one that waits for its rows.

Every rank of a synchronous step takes as long as the slowest, so a straggler shows in no rank's own step time. Here
each GPU is timed on a small product of its own, and each rank gives the part of its time that it waited for rows; both
are compared over all ranks once a log line.
"""

import statistics
from itertools import pairwise

import torch
import torch.distributed as dist

from ..distributed.fsdp import World
from .health import SLOW_FRACTION

CHECKS_IN_A_ROW = 3  # behind at so many checks on end: one alone may be a neighbour's burst on the network
WAIT_FRACTION = 0.05  # of its time that a rank waits for rows beyond what the others do
PROBE_SIDE = 2048  # of the product that is timed: some hundred microseconds on an H100
PROBES = 8  # products a check, of which the fastest counts, since communication runs beside them


class StragglerDetector:
    """Names a rank once it was behind at CHECKS_IN_A_ROW checks.

    The time of the products of one check is read at the next, so nobody waits for them. Processes on one host share its
    CPU, so without a GPU only the waiting counts.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._behind: dict[str, list[int]] = {"product": [0] * world.size, "rows": [0] * world.size}
        self._events: list[torch.cuda.Event] = []
        if world.device.type == "cuda":
            self._factor = torch.ones(PROBE_SIDE, PROBE_SIDE, device=world.device)

    def check(self, wait_fraction: float) -> list[str]:
        """Who holds the others up lately, in words, the same on all ranks.

        A collective call, between hosts only: no device is waited for.

        Args:
            wait_fraction: The part of its time that this rank waited for rows since the last check.
        """
        table = torch.zeros(2, self.world.size, dtype=torch.float64)  # a column a rank: the sum gathers them
        table[:, self.world.rank] = torch.tensor([self._product_seconds(), wait_fraction], dtype=table.dtype)
        if self.world.size > 1:
            dist.all_reduce(table)
        product_seconds, wait_fractions = table.tolist()
        return self.judge(product_seconds, wait_fractions)

    def _product_seconds(self) -> float:
        """Of the check before; starts the products of this one."""
        if self.world.device.type != "cuda":
            return 0.0
        fastest = 0.0
        if self._events:
            self._events[-1].synchronize()  # where every step has a line it may be some products away
            fastest = min(start.elapsed_time(end) for start, end in pairwise(self._events)) / 1000
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(PROBES + 1)]  # type: ignore[no-untyped-call]
        for event in self._events:
            event.record()
            self._factor @ self._factor
        return fastest

    def judge(self, product_seconds: list[float], wait_fractions: list[float]) -> list[str]:
        """Count one check of all ranks in; both lists are by rank."""
        # The lower of two middle values, which is one that was measured: of two ranks, the faster one's.
        usual, usual_wait = statistics.median_low(product_seconds), statistics.median_low(wait_fractions)
        stragglers = []
        for rank, (seconds, waited) in enumerate(zip(product_seconds, wait_fractions, strict=True)):
            if self._lasts("product", rank, seconds * SLOW_FRACTION > usual):
                stragglers.append(
                    f"rank {rank} is slow: a product takes it {seconds * 1e3:.2f} ms, others {usual * 1e3:.2f} ms"
                )
            if self._lasts("rows", rank, waited > usual_wait + WAIT_FRACTION):
                stragglers.append(
                    f"rank {rank} is slow: it waits {waited:.0%} of its time for rows, others {usual_wait:.0%}"
                )
        return stragglers

    def _lasts(self, what: str, rank: int, behind: bool) -> bool:
        self._behind[what][rank] = self._behind[what][rank] + 1 if behind else 0
        return self._behind[what][rank] >= CHECKS_IN_A_ROW
