"""How a Triton kernel is launched: warps and pipeline stages, on the device of its tensors.

Each kernel's file holds the launches measured on an H100 (docs/kernels.md); `tuned_launches` puts others in their place
where the device is another one.

Kernels and their calls keep their arguments in groups, one group or more a line (`fmt: skip`): tensors, then sizes and
strides, then what is a constant when Triton compiles.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Launch:
    """The shape of a launch; `block` is the kernel's own tile size, where it has one to choose.

    registers: at most so many a thread, that more programs fit on a multiprocessor; 0 leaves it to the compiler, and
    so do numbers of more than two bytes.
    """

    warps: int
    stages: int = 1
    block: int = 0
    registers: int = 0

    def options(self, data: Tensor | None = None) -> dict[str, int]:
        """Stages fill the shared memory with tiles of two-byte numbers: wider `data` gets one."""
        small = data is None or data.itemsize == 2
        stages = self.stages if small else 1
        limited = self.registers and small and not triton.knobs.runtime.interpret
        limit = {"maxnreg": self.registers} if limited else {}
        # fp fusion: said, since Triton 3.10 means to leave it out by default, which changes rounding and time
        return {"num_warps": self.warps, "num_stages": stages, "enable_fp_fusion": True, **limit}


class TunableLaunch:
    """The launch that one kernel takes on this machine: `launch`, which `tuned_launches.apply` may replace.

    Args:
        name: What files of measured launches on people's machines call it: it stays, also where a kernel moves.
        launch: The one measured on an H100.
        few_stages: Of a call with no more programs than multiprocessors: each then has the shared memory for itself. A
            launch of one stage keeps it: it is of a device whose compiler cannot do more.
    """

    def __init__(self, name: str, launch: Launch, few_stages: int = 0) -> None:
        self.name, self.launch, self.few_stages = name, launch, few_stages

    @property
    def block(self) -> int:
        return self.launch.block

    def options(self, data: Tensor | None = None, programs: int = 0) -> dict[str, int]:
        """For a call of so many programs, where that matters."""
        few = self.few_stages if self.launch.stages > 1 else 0
        if data is not None and few and programs <= multiprocessors(data.device):
            return replace(self.launch, stages=few).options(data)
        return self.launch.options(data)


HOPPER, BLACKWELL = 9, 10  # compute capability


def pieces(whole: int, size: int) -> int:
    """How many of one size cover the whole. Triton's own `cdiv` takes some microseconds, being a kernel's function."""
    return -(-whole // size)


def on(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@cache
def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; the interpreter has one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
