"""The casts of a float8 linear's backward on a GPU: ours in one read, the compiler's two, and the bytes' floor.

    python -m benchmarks.float8_casts [--small]

For each matrix that the backward of Bamba-9B's linears casts, 8,192 tokens: microseconds of making it in float8 as it
lies and turned (gradients) or turned alone (inputs, weights), by our kernel and by torch.compile as torchao's linears
get it, medians; the ratio; and the bytes over the rate of a plain copy of a gigabyte. Codes are compared first. With
--small: small matrices, on a CPU, in plain torch, only to see that it runs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from trainer.kernels import ops, reference

TOKENS, E4M3, E5M2 = 8192, torch.float8_e4m3fn, torch.float8_e5m2
#: (height, width), the format, and whether both ways are wanted.
MATRICES = {
    "gradient of gate_up": (TOKENS, 28672, E5M2, True),
    "gradient of in_proj": (TOKENS, 16768, E5M2, True),
    "gradient of down": (TOKENS, 4096, E5M2, True),
    "input of gate_up": (TOKENS, 4096, E4M3, False),
    "input of down": (TOKENS, 14336, E4M3, False),
    "weight of gate_up": (28672, 4096, E4M3, False),
    "weight of down": (4096, 14336, E4M3, False),
}


def compiled(x: Tensor, scale: Tensor, dtype: torch.dtype, both: bool) -> tuple[Tensor, Tensor]:
    return reference.float8_cast(x, scale, dtype, both)


def ours(x: Tensor, scale: Tensor, dtype: torch.dtype, both: bool) -> tuple[Tensor, Tensor]:
    return ops.float8_cast(x, scale, dtype) if both else (x[:0].to(dtype), ops.float8_turned(x, scale, dtype))


def microseconds(call: Callable[[], object], device: torch.device, rounds: int = 30) -> float:
    """Median, each call waited for; the first ones compile."""
    found = []
    for _ in range(rounds):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            found.append(start.elapsed_time(end) * 1e3)
        else:
            began = time.perf_counter()
            call()
            found.append((time.perf_counter() - began) * 1e6)
    return statistics.median(found[rounds // 3 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    if not small and not torch.cuda.is_available():
        parser.error("needs a GPU; --small runs without one")
    device = torch.device("cpu" if small else "cuda")
    by_compiler = compiled if small else torch.compile(compiled, fullgraph=True, dynamic=False)
    block = torch.empty(1 << (20 if small else 29), dtype=torch.bfloat16, device=device)
    copied = microseconds(block.clone, device)
    rate = 2 * block.nbytes / copied  # bytes a microsecond
    del block
    for name, (height, width, dtype, both) in MATRICES.items():
        x = torch.randn(height >> (6 * small), width >> (6 * small), device=device).bfloat16()
        scale = torch.full((), 100.0, device=device)
        given = x, scale, dtype, both
        pairs = zip(ours(*given), by_compiler(*given), strict=True)
        assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs), name
        mine, theirs = (microseconds(partial(cast, *given), device) for cast in (ours, by_compiler))
        floor = x.numel() * (2 + 1 + both) / rate
        print(
            f"{name:22} ours {mine:8.1f} us  compiled {theirs:8.1f} us ({theirs / mine:.2f}x)  bytes {floor:8.1f} us",
            flush=True,
        )
        line = {"matrix": name, "shape": list(x.shape), "both": both, "ours_us": mine, "compiled_us": theirs}
        print(json.dumps({**line, "floor_us": floor, "device": str(device), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
