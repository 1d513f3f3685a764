"""The casts of float8 linears on a GPU: ours in one read, the compiler's two, and the bytes' floor.

    python -m benchmarks.float8_casts [--small]

For each matrix that the linears of Bamba-9B's blocks cast, 8,192 tokens: microseconds of making it in float8 as it lies
and turned, by our kernel and by torch.compile as torchao's linears get it, medians of CUDA graphs of three such
matrices, so that none is in a cache and no host in the way; the ratio; and the bytes over the rate of a plain copy of a
gigabyte. Codes are compared first. With --small: small matrices, on a CPU, in plain torch, only to see that it runs.
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
COPIES = 3
#: (height, width) and the format.
MATRICES = {
    "gradient of gate_up": (TOKENS, 28672, E5M2),
    "gradient of in_proj": (TOKENS, 16768, E5M2),
    "gradient of down": (TOKENS, 4096, E5M2),
    "input of gate_up": (TOKENS, 4096, E4M3),
    "input of out_proj": (TOKENS, 8192, E4M3),
    "input of down": (TOKENS, 14336, E4M3),
    "weight of gate_up": (28672, 4096, E4M3),
    "weight of in_proj": (16768, 4096, E4M3),
    "weight of down": (4096, 14336, E4M3),
}


def compiled(x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return reference.float8_cast(x, scale, dtype)


def microseconds(calls: list[Callable[[], object]], device: torch.device, rounds: int = 30) -> float:
    """Of one of the calls, the median; they have been called before."""
    cuda = device.type == "cuda"
    if cuda:
        graph, kept = torch.cuda.CUDAGraph(), list[object]()
        with torch.cuda.graph(graph):
            kept += [call() for call in calls]  # so that each result has a place of its own
    found = []
    for _ in range(rounds):
        if cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            found.append(start.elapsed_time(end) * 1e3)
        else:
            began = time.perf_counter()
            for call in calls:
                call()
            found.append((time.perf_counter() - began) * 1e6)
    return statistics.median(found[rounds // 3 :]) / len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    if not small and not torch.cuda.is_available():
        parser.error("needs a GPU; --small runs without one")
    device = torch.device("cpu" if small else "cuda")
    by_compiler = compiled if small else torch.compile(compiled, fullgraph=True, dynamic=False)
    block = torch.empty(1 << (20 if small else 29), dtype=torch.bfloat16, device=device)
    rate = 2 * block.nbytes / microseconds([block.clone], device)  # bytes a microsecond
    del block
    for name, (height, width, dtype) in MATRICES.items():
        shape = height >> (6 * small), width >> (6 * small)
        matrices = [torch.randn(shape, device=device).bfloat16() for _ in range(COPIES)]
        scale = torch.full((), 100.0, device=device)
        pairs = zip(ops.float8_cast(matrices[0], scale, dtype), by_compiler(matrices[0], scale, dtype), strict=True)
        assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs), name
        mine, theirs = (
            microseconds([partial(cast, x, scale, dtype) for x in matrices], device)
            for cast in (ops.float8_cast, by_compiler)
        )
        floor = matrices[0].numel() * 4 / rate
        print(
            f"{name:22} ours {mine:8.1f} us  compiled {theirs:8.1f} us ({theirs / mine:.2f}x)  bytes {floor:8.1f} us",
            flush=True,
        )
        line = {"matrix": name, "shape": list(shape), "ours_us": mine, "compiled_us": theirs}
        print(json.dumps({**line, "floor_us": floor, "device": str(device), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
