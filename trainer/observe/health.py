"""`torchrun … -m trainer.health`: is every rank's device what it should be, before a run or beside one. Under 20 s.

Each rank measures products (bfloat16 on a GPU), memory bandwidth and an all-reduce, and asks NVML for ECC errors and
throttling. A rank 10 % below the median, or one with uncorrected ECC errors, fails: it is named, and the exit code
is 1. On CPUs, which processes share, rates are shown and not compared. While a run goes on, `stragglers` does the same.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist

from ..distributed.fsdp import World, joined
from .messages import say

SLOW_FRACTION = 0.9  # of the median rate of all ranks: below it a rank is at fault


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Of one rank: rates in TFLOP/s and GB/s (all-reduce: bytes of the buffer a second); `faults` in words, and `notes`
    on what could not be found out."""

    rank: int
    device: str
    product_tflops: float
    memory_gb_per_second: float
    all_reduce_gb_per_second: float
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def measure(world: World) -> DeviceReport:
    """A collective call: every rank measures at the same time, so that hosts are as hot as in a run."""
    device, cuda = world.device, world.device.type == "cuda"
    side = 8192 if cuda else 512  # large enough for a GPU's full rate, and small enough for a CPU's second
    factor = torch.randn(side, side, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    product_seconds = median_seconds(lambda: factor @ factor, device)
    source = torch.empty((1 << 30) if cuda else (1 << 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = median_seconds(lambda: target.copy_(source), device)
    shared = torch.ones((1 << 26) if cuda else (1 << 18), device=device)
    reduce_seconds = median_seconds(lambda: dist.all_reduce(shared), device)
    faults, notes = _nvml(world) if cuda else ([], ["no GPU: NVML was not asked"])
    return DeviceReport(
        rank=world.rank,
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        product_tflops=2 * side**3 / product_seconds / 1e12,
        memory_gb_per_second=2 * source.numel() / copy_seconds / 1e9,  # read and written
        all_reduce_gb_per_second=shared.nbytes / reduce_seconds / 1e9,
        faults=faults,
        notes=notes,
    )


def median_seconds(
    work: Callable[[], object], device: torch.device, repeats: int = 10, before: Callable[[], object] | None = None
) -> float:
    """Of some runs, after two that warm up; what is done `before` each, a barrier of ranks say, is not counted."""
    taken = []
    for number in range(repeats + 2):
        if before:
            before()
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number >= 2:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _nvml(world: World) -> tuple[list[str], list[str]]:
    """(faults, notes): what NVML holds against this device, and that it could not be asked."""
    try:
        import pynvml
    except ImportError:
        return [], ["NVML was not asked: nvidia-ml-py is not installed"]
    faults = []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(world.device).uuid}")
        errors = pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        )
        if errors:
            faults.append(f"{errors} uncorrected ECC errors since the last reboot")
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        for bit, name in (
            (pynvml.nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown"),
            (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "too hot (hardware)"),
            (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "too hot (driver)"),
            (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"),
        ):
            if reasons & bit:
                faults.append(f"clocks are held down: {name}")
    except pynvml.NVMLError as error:
        return faults, [f"NVML did not answer: {error}"]
    return faults, []


def find_faults(reports: list[DeviceReport]) -> dict[int, list[str]]:
    """What is wrong, by rank; nothing for a healthy one."""
    wrong: dict[int, list[str]] = {report.rank: list(report.faults) for report in reports}
    for rate in ("product_tflops", "memory_gb_per_second", "all_reduce_gb_per_second"):
        compared = [report for report in reports if report.device != "cpu"]
        median = statistics.median([getattr(report, rate) for report in compared] or [0.0])
        for report in compared:
            value = getattr(report, rate)
            if value < SLOW_FRACTION * median:
                wrong[report.rank].append(f"{rate} {value:,.1f}, the median is {median:,.1f}")
    return {rank: faults for rank, faults in wrong.items() if faults}


def all_healthy() -> bool:
    """Measure every rank's device and say on rank 0 how each is; whether all are what they should be. All ranks call
    this together."""
    with joined() as world:
        mine = measure(world)
        reports: list[DeviceReport] = [mine] * world.size
        dist.all_gather_object(reports, mine)
    wrong = find_faults(reports)
    if world.leads:
        for report in reports:
            values = asdict(report)
            faults = "; ".join([*(wrong.get(report.rank) or ["well"]), *report.notes])
            say(
                f"rank {report.rank}  {report.device}  {values['product_tflops']:,.3g} TFLOP/s  memory "
                f"{values['memory_gb_per_second']:,.0f} GB/s  all-reduce {values['all_reduce_gb_per_second']:,.1f} GB/s"
                f"  {faults}"
            )
    return not wrong
