"""What a GPU runs as one compiled kernel and a CPU as it stands: where the choice is made, and where a test enters it.

A function under `fused` meets the compiler as plain tensors: detached, so that neither their history nor the dtype of a
parameter's gradient is any of the compiler's business (with a float32 gradient of a bfloat16 parameter it refuses).
`everywhere()` takes on a CPU the paths that else only a GPU takes; `FUSED` names them all.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

FUSED: dict[str, "Fused"] = {}
_everywhere = False


def wanted(device: torch.device) -> bool:
    """Whether small functions are compiled on `device`: on a GPU; on a CPU that takes longer than it saves."""
    return device.type == "cuda" or _everywhere


def keep_kernels_in_one_place() -> None:
    """Let torch's compiler keep Triton's kernels where Triton does.

    It names a folder of its own, for our kernels too, once it compiles, and none where it finds a graph in its cache:
    so the second start of a run did not find the kernels of the first (5 of its 18 seconds).
    """
    from triton import knobs

    os.environ.setdefault("TRITON_CACHE_DIR", knobs.cache.dir)


@contextmanager
def everywhere() -> Iterator[None]:
    """Meanwhile a CPU compiles what a GPU does."""
    global _everywhere
    before, _everywhere = _everywhere, True
    try:
        yield
    finally:
        _everywhere = before


class Fused:
    """A function of tensors and numbers, made for a compiler to turn into one kernel; it may write to its tensors and
    nothing is differentiated through it. `plain` is the function itself."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain
        # One launch a kernel. Of two, the compiler takes what is faster in one try each: beside other work that was the
        # slower one of an update that it made then, 2.3 TB/s for 3.4, for the whole run.
        self.compiled = torch.compile(plain, fullgraph=True, options={"triton.autotune_pointwise": False})

    @torch.no_grad()
    def __call__(self, *given: Any) -> Any:
        first = next(argument for argument in given if isinstance(argument, Tensor))
        run = self.compiled if wanted(first.device) else self.plain
        return run(*(argument.detach() if isinstance(argument, Tensor) else argument for argument in given))


def fused(plain: Callable[..., Any]) -> Fused:
    """Decorates a function that a GPU gets compiled."""
    function = Fused(plain)
    FUSED[f"{plain.__module__}.{plain.__name__}"] = function
    return function
