"""`torchrun … -m trainer.health`: is every rank's device what it should be, before a run or beside one. Under 20 s.

Each rank measures products (bfloat16 on a GPU), memory bandwidth and an all-reduce, and asks NVML for ECC errors and
throttling. A rank 10 % below the median, or one with uncorrected ECC errors, fails: it is named, and the exit code
is 1. On CPUs, which processes share, rates are shown and not compared. While a run goes on, `Pulse` names the ranks
that hold the others up.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import torch
import torch.distributed as dist
import typer
from torch import Tensor

from ..distributed.fsdp import World, joined
from .metrics import say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SLOW = 0.9  # of the median of all ranks


@dataclass(frozen=True, slots=True)
class Report:
    """Of one rank: rates in TFLOP/s and GB/s (all-reduce: bytes of the buffer a second); `faults` in words, and `notes`
    on what could not be found out."""

    rank: int
    device: str
    product_tflops: float
    memory_gb_per_second: float
    all_reduce_gb_per_second: float
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def measure(world: World) -> Report:
    """A collective call: every rank measures at the same time."""
    cuda = world.device.type == "cuda"
    side = 8192 if cuda else 512
    left = torch.randn(side, side, device=world.device, dtype=torch.bfloat16 if cuda else torch.float32)
    product = _seconds(lambda: left @ left, world.device)
    memory = torch.empty((1 << 30) if cuda else (1 << 24), dtype=torch.uint8, device=world.device)
    other = torch.empty_like(memory)
    copy = _seconds(lambda: other.copy_(memory), world.device)
    shared = torch.ones((1 << 26) if cuda else (1 << 18), device=world.device)
    reduce = _seconds(lambda: _reduced(shared), world.device)
    name = torch.cuda.get_device_name(world.device) if cuda else "cpu"
    return Report(
        world.rank,
        name,
        2 * side**3 / product / 1e12,
        2 * memory.numel() / copy / 1e9,
        shared.nbytes / reduce / 1e9,
        *(_nvml(world) if cuda else ([], ["no GPU: NVML was not asked"])),
    )


def _reduced(tensor: Tensor) -> None:
    dist.all_reduce(tensor)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """The median of some runs, after two that warm up."""
    taken = []
    for number in range(repeats + 2):
        _wait(device)
        before = time.perf_counter()
        work()
        _wait(device)
        if number >= 2:
            taken.append(time.perf_counter() - before)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _nvml(world: World) -> tuple[list[str], list[str]]:
    """What NVML holds against this device, and that it could not be asked."""
    try:
        import pynvml
    except ImportError:
        return [], ["NVML was not asked: nvidia-ml-py is not installed"]
    found = []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(world.device).uuid}")
        errors = pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        )
        if errors:
            found.append(f"{errors} uncorrected ECC errors since the last reboot")
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        for bit, name in (
            (pynvml.nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown"),
            (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "too hot (hardware)"),
            (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "too hot (driver)"),
            (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"),
        ):
            if reasons & bit:
                found.append(f"clocks are held down: {name}")
    except pynvml.NVMLError as error:
        return found, [f"NVML did not answer: {error}"]
    return found, []


def judged(reports: list[Report]) -> dict[int, list[str]]:
    """What is wrong, by rank; nothing for a healthy one."""
    wrong: dict[int, list[str]] = {report.rank: list(report.faults) for report in reports}
    for rate in ("product_tflops", "memory_gb_per_second", "all_reduce_gb_per_second"):
        compared = [report for report in reports if report.device != "cpu"]
        median = statistics.median([getattr(report, rate) for report in compared] or [0.0])
        for report in compared:
            value = getattr(report, rate)
            if value < SLOW * median:
                wrong[report.rank].append(f"{rate} {value:,.1f}, the median is {median:,.1f}")
    return {rank: faults for rank, faults in wrong.items() if faults}


class Pulse:
    """Says which rank holds the others up, a log line at a time: one whose GPU is slow, or one that waits for its rows.

    Every GPU is timed on products of a few hundred microseconds, of which the best of eight counts, since communication
    runs beside them; the verdict on one beat is there at the next, so nobody waits for it. Processes share a CPU, so
    there only the waiting counts. A rank is named when it was behind at `BEATS` on end.
    """

    BEATS = 3
    WAITS = 0.05  # of its time more than others

    def __init__(self, world: World) -> None:
        self.world = world
        self._behind: dict[str, list[int]] = {"product": [0] * world.size, "rows": [0] * world.size}
        self._events: list[torch.cuda.Event] = []
        if world.device.type == "cuda":
            self._left = torch.ones(2048, 2048, device=world.device)

    def beat(self, waited: float) -> list[str]:
        """Who holds the others up lately, in words, the same on all ranks. `waited` is the part of its time that this
        rank waited for rows since the last beat. A collective call, between hosts only: no device is waited for."""
        mine = torch.zeros(2, self.world.size, dtype=torch.float64)
        mine[0, self.world.rank], mine[1, self.world.rank] = self._product_seconds(), waited
        if self.world.size > 1:
            dist.all_reduce(mine)
        seconds, waits = mine.tolist()
        return self.judge(seconds, waits)

    def _product_seconds(self) -> float:
        """Of the beat before; starts the next one."""
        if self.world.device.type != "cuda":
            return 0.0
        taken = 0.0
        if self._events:
            self._events[-1].synchronize()  # where every step has a line it may be some products away
            taken = min(one.elapsed_time(two) for one, two in pairwise(self._events)) / 1000
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(9)]  # type: ignore[no-untyped-call]
        for event in self._events:
            event.record()
            self._left @ self._left
        return taken

    def judge(self, seconds: list[float], waits: list[float]) -> list[str]:
        """Count one beat of all ranks in: what a product took, and the part of the time that was waited for rows."""
        usual, patient = statistics.median_low(seconds), statistics.median_low(waits)
        found = []
        for rank, (taken, waited) in enumerate(zip(seconds, waits, strict=True)):
            if self._lasts("product", rank, taken * SLOW > usual):
                found.append(
                    f"rank {rank} is slow: a product takes it {taken * 1e3:.2f} ms, others {usual * 1e3:.2f} ms"
                )
            if self._lasts("rows", rank, waited > patient + self.WAITS):
                found.append(f"rank {rank} is slow: it waits {waited:.0%} of its time for rows, others {patient:.0%}")
        return found

    def _lasts(self, what: str, rank: int, behind: bool) -> bool:
        self._behind[what][rank] = self._behind[what][rank] + 1 if behind else 0
        return self._behind[what][rank] >= self.BEATS


@app.command()
def command() -> None:
    """Measure every rank's device; exit 1 and name those that are not what they should be."""
    with joined() as world:
        mine = measure(world)
        reports: list[Report] = [mine] * world.size
        dist.all_gather_object(reports, mine)
    wrong = judged(reports)
    if world.leads:
        for report in reports:
            values = asdict(report)
            faults = "; ".join([*(wrong.get(report.rank) or ["well"]), *report.notes])
            say(
                f"rank {report.rank}  {report.device}  {values['product_tflops']:,.3g} TFLOP/s  memory "
                f"{values['memory_gb_per_second']:,.0f} GB/s  all-reduce {values['all_reduce_gb_per_second']:,.1f} GB/s"
                f"  {faults}"
            )
    if wrong:
        raise typer.Exit(1)
