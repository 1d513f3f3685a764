"""The Mamba2 kernels beside mamba_ssm's, on one GPU: errors against float64, and times.

    python -m benchmarks.kernels [--peer FOLDER] [--shapes 2x4096,1x32768] [--only check,time,profile]
    python -m benchmarks.kernels [--peer FOLDER] --only causes    where an error in bfloat16 comes from, of inputs that
                                                                  are hard for it (benchmarks/rounding.py)
    python -m benchmarks.kernels --tune    find the fastest launches on this GPU, keep them (tuned_launches.py)

FOLDER holds the packages `mamba_ssm` and `causal_conv1d` as their source packages ship them, and `csrc`, the CUDA
sources of causal-conv1d, which are built first (docs/kernels.md says how it was filled). Without it, ours alone.

Inputs are Bamba's: 128 heads of 64, state 128, one group, bfloat16, decay rates and steps as a new model draws them,
and four documents a row. Times are medians of CUDA graph replays (no launch gaps), of plain calls, and (captured) of
calls of what torch.cuda.make_graphed_callables made of ours, the L2 cache flushed before each. A peer's times come from
the same process.
"""

import argparse
import itertools
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import triton.testing
from torch import Tensor

from benchmarks import rounding
from trainer.kernels import ops, tuned_launches
from trainer.kernels.launch import Launch

HEADS, WIDTH, STATE, EPS = 128, 64, 128, 1e-5
INNER = HEADS * WIDTH
NAMES = ("zxbcdt", "conv_weight", "conv_bias", "A_log", "D", "dt_bias", "norm_weight")
SCAN_NAMES = ("x", "dt", "B", "C", "A_log", "D", "dt_bias")


def documents(batch: int, tokens: int) -> Tensor:
    """Four documents a row, with borders at odd places."""
    borders = torch.tensor([tokens // 7, tokens // 2 + 1, tokens - tokens // 5], device="cuda")
    row = torch.bucketize(torch.arange(tokens, device="cuda"), borders, right=True)
    return row.to(torch.int32).expand(batch, tokens).contiguous()


def mix_inputs(batch: int, tokens: int, seed: int = 0) -> list[Tensor]:
    make = torch.Generator("cuda").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, device="cuda")

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(HEADS, generator=make, device="cuda")

    step = between(-6.9, -2.3).exp()
    large = torch.empty(batch, tokens, 2 * INNER + 2 * STATE + HEADS, dtype=torch.bfloat16, device="cuda")
    large.normal_(generator=make)
    conv = (normal(INNER + 2 * STATE, 4) / 2).bfloat16(), (normal(INNER + 2 * STATE) / 2).bfloat16()
    rest = between(1, 16).log(), 1 + normal(HEADS) / 4, step + torch.log(-torch.expm1(-step))
    return [large, *conv, *rest, (1 + normal(INNER) / 4).bfloat16()]


def scan_inputs(batch: int, tokens: int, seed: int = 0) -> list[Tensor]:
    large, _, _, a_log, d, bias, _ = mix_inputs(batch, tokens, seed)
    x = large[..., :INNER].unflatten(-1, (HEADS, WIDTH)).contiguous()
    dt, b, c, _ = (part.contiguous() for part in large[..., INNER:].split([HEADS, STATE, STATE, INNER], -1))
    return [x, dt, b[:, :, None], c[:, :, None], a_log, d, bias]


def our_mix(leaves: list[Tensor], docs: Tensor) -> Tensor:
    return ops.mix(*leaves, docs, EPS)


def our_scan(leaves: list[Tensor], docs: Tensor) -> Tensor:
    return ops.scan(*leaves, docs)[0]


def peer_functions(folder: Path, chunk: int) -> tuple[Callable, Callable]:
    """mamba_ssm's fused entry and its scan, in the forms of ours."""
    sys.path.insert(0, str(folder / "site"))
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

    def mix(leaves: list[Tensor], docs: Tensor) -> Tensor:
        zxbcdt, weight, bias, a_log, d, dt_bias, norm = leaves
        return mamba_split_conv1d_scan_combined(
            zxbcdt,
            weight,
            bias,
            dt_bias,
            -a_log.exp(),
            d,
            chunk,
            seq_idx=docs,
            rmsnorm_weight=norm,
            rmsnorm_eps=EPS,
            headdim=WIDTH,
            norm_before_gate=False,
        )

    def scan(leaves: list[Tensor], docs: Tensor) -> Tensor:
        x, dt, b, c, a_log, d, dt_bias = leaves
        return mamba_chunk_scan_combined(
            x,
            dt,
            -a_log.exp(),
            b,
            c,
            chunk,
            D=d,
            dt_bias=dt_bias,
            seq_idx=docs,
            dt_softplus=True,
        )

    return mix, scan


def build_peer_conv(folder: Path) -> None:
    """causal-conv1d's extension, built from its sources."""
    from torch.utils import cpp_extension

    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    place = Path(os.environ.get("PEER_BUILD", "/tmp/peer_build"))
    place.mkdir(exist_ok=True)
    sys.path.insert(0, str(place))
    sources = [str(folder / "csrc" / name) for name in ("causal_conv1d.cpp", "causal_conv1d_fwd.cu")]
    sources += [str(folder / "csrc" / f"causal_conv1d_{name}.cu") for name in ("bwd", "update")]
    cpp_extension.load(
        "causal_conv1d_cuda", sources, build_directory=str(place), extra_cuda_cflags=["-O3", "--use_fast_math"]
    )


def leaves_of(tensors: list[Tensor], *, double: bool = False) -> list[Tensor]:
    return [(t.double() if double else t).detach().clone().requires_grad_() for t in tensors]


def results(function: Callable, tensors: list[Tensor], docs: Tensor, grad: Tensor, *, double: bool = False) -> list:
    """The output and every gradient."""
    leaves = leaves_of(tensors, double=double)
    out = function(leaves, docs)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def check(batch: int, tokens: int, peers: dict[str, tuple[Callable, Callable]]) -> None:
    """Print relative errors against float64 of ours and the peers', and whether ours repeats itself to the bit."""
    docs = documents(batch, tokens)
    for kind, (function, make, names) in enumerate(((our_mix, mix_inputs, NAMES), (our_scan, scan_inputs, SCAN_NAMES))):
        tensors = make(batch, tokens, seed=tokens)
        shape = (batch, tokens, INNER) if kind == 0 else (batch, tokens, HEADS, WIDTH)
        grad = torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).bfloat16()
        wanted = results(function, tensors, docs, grad.double(), double=True)
        rows = {"ours": results(function, tensors, docs, grad)}
        again = results(function, tensors, docs, grad)
        same = all(torch.equal(a, b) for a, b in zip(rows["ours"], again, strict=True))
        rows |= {name: results(pair[kind], tensors, docs, grad) for name, pair in peers.items()}
        print(f"\n{function.__name__} {batch}x{tokens}: relative error; ours twice the same bits: {same}")
        print(f"{'':14}" + "".join(f"{name:>14}" for name in rows))
        for place, name in enumerate(("out", *names)):
            reference = wanted[place]
            errors = [float((row[place].double() - reference).norm() / reference.norm()) for row in rows.values()]
            print(f"{name:14}" + "".join(f"{error:14.2e}" for error in errors), flush=True)
        if kind == 0:
            parts = dict(zip(["z", "x", "B", "C", "dt"], (INNER, INNER, STATE, STATE, HEADS), strict=True))
            split = [row[1].split(list(parts.values()), -1) for row in rows.values()]
            for place, (name, reference) in enumerate(
                zip(parts, wanted[1].split(list(parts.values()), -1), strict=True)
            ):
                errors = [float((row[place].double() - reference).norm() / reference.norm()) for row in split]
                print(f"  d{name:11}" + "".join(f"{error:14.2e}" for error in errors), flush=True)


#: Inputs that are hard for bfloat16: what becomes of those of `mix_inputs`, and of `scan_inputs`.
HARD: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "as drawn": lambda given: given,
    "D = 0": lambda given: [*given[:4], torch.zeros_like(given[4]), *given[5:]],
    "inputs x 1e-3": lambda given: [given[0] * 1e-3, *given[1:]],
    "inputs x 1e-3, D = 0": lambda given: [given[0] * 1e-3, *given[1:4], torch.zeros_like(given[4]), *given[5:]],
    "all of x, B and C x 1e-3": lambda given: [one * 1e-3 if one.dim() > 2 else one for one in given],
}


def causes(batch: int, tokens: int, peers: dict[str, tuple[Callable, Callable]]) -> None:
    """Print relative errors against float64 beside those of the exact mathematics with bfloat16 between the kernels,
    and how much the exact result moves where the inputs are rounded once more, by 2^-9: its conditioning."""
    docs = documents(batch, tokens)
    for kind, (function, make, names) in enumerate(((our_mix, mix_inputs, NAMES), (our_scan, scan_inputs, SCAN_NAMES))):
        for what, change in HARD.items():
            tensors = change(make(batch, tokens, seed=tokens))
            shape = (batch, tokens, INNER) if kind == 0 else (batch, tokens, HEADS, WIDTH)
            grad = torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).bfloat16()
            wanted = results(function, tensors, docs, grad.double(), double=True)
            rows = {"ours": results(function, tensors, docs, grad)}
            rows |= {name: results(pair[kind], tensors, docs, grad) for name, pair in peers.items()}
            if kind == 0:
                with rounding.between():
                    rows["between"] = results(function, tensors, docs, grad.double(), double=True)
            noise = torch.Generator("cuda").manual_seed(2)
            moved = [one * (1 + 2**-9 * torch.randn(one.shape, device="cuda", generator=noise)) for one in tensors]
            rows["conditioning"] = results(function, moved, docs, grad.double(), double=True)
            print(f"\n{function.__name__} {batch}x{tokens}, {what}: relative error")
            print(f"{'':14}" + "".join(f"{name:>14}" for name in rows))
            for name, *columns in _apart(kind, ("out", *names), wanted, list(rows.values())):
                reference, *found = columns
                errors = [float((one.double() - reference).norm() / reference.norm()) for one in found]
                print(f"{name:14}" + "".join(f"{error:14.2e}" for error in errors), flush=True)


def _apart(kind: int, names: tuple[str, ...], wanted: list[Tensor], rows: list[list[Tensor]]) -> list[tuple]:
    """(name, wanted, of each row); of the packed projection, its columns."""
    found = []
    for place, name in enumerate(names):
        columns = [wanted[place], *(row[place] for row in rows)]
        if kind == 0 and name == "zxbcdt":
            widths = (INNER, INNER, STATE, STATE, HEADS)
            pieces = zip(*(one.split(widths, -1) for one in columns), strict=True)
            found += [(f"d{part}", *piece) for part, piece in zip(("z", "x", "B", "C", "dt"), pieces, strict=True)]
        else:
            found.append((name, *columns))
    return found


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph: replayed, its kernels run with no gaps for launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def median_ms(call: Callable[[], object]) -> float:
    return triton.testing.do_bench(call, warmup=50, rep=250, return_mode="median")


def timed(function: Callable, tensors: list[Tensor], docs: Tensor) -> dict[str, Callable[[], object]]:
    leaves = leaves_of(tensors)
    grad = torch.randn_like(function(leaves, docs))

    def forward() -> object:
        with torch.no_grad():
            return function(leaves, docs)

    def both() -> object:
        return torch.autograd.grad(function(leaves, docs), leaves, grad)

    return {"forward": forward, "forward+backward": both}


def captured(function: Callable, tensors: list[Tensor], docs: Tensor) -> Callable[[], object]:
    """Forward and backward by autograd, each one launch of a graph: what a block called from Python can have."""
    leaves = leaves_of(tensors)
    graphed = torch.cuda.make_graphed_callables(lambda *given: function(list(given), docs), tuple(leaves))
    grad = torch.randn_like(graphed(*leaves))
    return lambda: torch.autograd.grad(graphed(*leaves), leaves, grad)


def time(batch: int, tokens: int, peers: dict[str, tuple[Callable, Callable]]) -> None:
    docs = documents(batch, tokens)
    for kind, make in enumerate((mix_inputs, scan_inputs)):
        tensors = make(batch, tokens)
        for name, pair in {"ours": (our_mix, our_scan), **peers}.items():
            for what, call in timed(pair[kind], tensors, docs).items():
                plain = median_ms(call)
                replay = median_ms(graphed(call))
                print(
                    f"{('mix', 'scan')[kind]:5} {batch}x{tokens:<7} {what:17} {name:12}"
                    f" graph {replay:8.3f} ms   plain {plain:8.3f} ms   {replay * 1e6 / batch / tokens:7.1f} ns/token",
                    flush=True,
                )
            if name == "ours":
                called = median_ms(captured(pair[kind], tensors, docs))
                print(
                    f"{('mix', 'scan')[kind]:5} {batch}x{tokens:<7} {what:17} {name:12} captured {called:5.3f} ms",
                    flush=True,
                )


def profile(function: Callable, tensors: list[Tensor], docs: Tensor, repeats: int = 5) -> None:
    """Print where the time of forward and backward goes, kernel by kernel."""
    both = timed(function, tensors, docs)["forward+backward"]
    for _ in range(3):
        both()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
        for _ in range(repeats):
            both()
        torch.cuda.synchronize()
    events = [(e.self_device_time_total / repeats, e.count / repeats, e.key) for e in record.key_averages()]
    print(f"\n{function.__name__}: total {sum(e[0] for e in events):.0f} us")
    for total, count, key in sorted(events, reverse=True)[:22]:
        print(f"{total:9.1f} us {count:5.1f}x  {key[:90]}")


#: What to try: the kernels that a launch is for, warps, stages, tile sizes, registers (0: as the compiler likes).
CANDIDATES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "conv.FORWARD": ("_conv", (1, 2, 4), (1,), (64, 128, 256), (0, 64, 72)),
    "conv.BACKWARD": ("_conv_backward", (1, 2, 4), (1,), (64, 128, 256), (0, 80)),
    "norm.FORWARD": ("_gated_norm", (4, 8, 16), (1,), (0,), (0,)),
    "norm.BACKWARD": ("_gated_norm_backward", (8, 16), (1,), (0,), (0, 64, 128)),
    "decay.DECAYS": ("_decays", (2, 4, 8), (1,), (4, 8, 16, 32), (0,)),
    "scan_forward.FORWARD": ("_scan", (4, 8), (1, 2, 3), (16, 32, 64), (0,)),
    "scan_states.STATES": ("_states", (4, 8), (1, 2, 3), (64, 128), (0,)),
    "scan_pairs.SCORES": ("_scores", (4, 8), (1,), (0,), (0,)),
    "scan_chunks.CHUNKS": ("_chunk_gradients", (4, 8), (1, 2, 3), (8, 16, 32), (0, 168)),
    "scan_backward.JOIN": ("_join", (4, 8), (1, 2, 3, 4), (0,), (0,)),
    "scan_backward.FINISH": ("_finish", (4, 8), (1,), (8, 16, 32), (0,)),
    "swiglu.BACKWARD": ("_swiglu_backward", (2, 4, 8), (1,), (1024, 2048, 4096), (0,)),
}


def kernel_us(call: Callable[[], object], kernel: str, repeats: int = 5) -> float:
    """Microseconds of a kernel, all its launches in a call together."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    return sum(e.self_device_time_total for e in record.key_averages() if e.key == kernel) / repeats


def tune(batch: int, tokens: int) -> None:
    """Try all candidates of one kernel after the other; keep the fastest of each for every later run on this GPU."""
    both = timed(our_mix, mix_inputs(batch, tokens), documents(batch, tokens))["forward+backward"]
    both()
    gate_up = torch.randn(batch, tokens, 2 * 14336, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    opened = ops.swiglu(gate_up)
    of_mlp = partial(torch.autograd.grad, opened, gate_up, torch.randn_like(opened), retain_graph=True)
    best = tuned_launches.current()
    for name, (kernel, *ranges) in CANDIDATES.items():
        call = of_mlp if kernel == "_swiglu_backward" else both
        found = {best[name]: kernel_us(call, kernel)}
        if not found[best[name]]:
            print(f"{name:24} is not launched on this GPU: another kernel has its place")
            continue
        for launch in {Launch(*numbers) for numbers in itertools.product(*ranges)} - {best[name]}:
            tuned_launches.apply({name: launch})
            try:
                found[launch] = kernel_us(call, kernel)
            except triton.runtime.errors.OutOfResources:
                continue  # too large for this device
            except RuntimeError as error:
                if "PassManager" not in str(error):
                    raise
                print(f"{name:24} {launch}: this Triton cannot compile it for this device")
        before, best[name] = best[name], min(found, key=lambda launch: found[launch])
        tuned_launches.apply({name: best[name]})
        print(f"{name:24} {found[before]:8.1f} us -> {found[best[name]]:8.1f} us  {best[name]}", flush=True)
    file = tuned_launches.file_of(torch.cuda.get_device_name())
    tuned_launches.write(file, best)
    print(f"kept in {file}")


PARTS = ("check", "causes", "time", "profile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--chunks", default="256,128", help="the peer's chunk lengths")
    parser.add_argument("--shapes", default="2x4096")
    parser.add_argument("--only", default="check,time,profile")
    parser.add_argument(
        "--tune", action="store_true", help="takes a quarter of an hour: a hundred kernels are compiled"
    )
    options = parser.parse_args()
    only = options.only.split(",")
    if unknown := set(only) - set(PARTS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if wrong := [text for text in options.shapes.split(",") if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text)]:
        parser.error(f"--shapes {', '.join(wrong)}: a shape is rows x tokens, as 2x4096")
    if not torch.cuda.is_available():
        parser.error("needs a GPU; a CPU can only check them (python -m pytest tests/trainer/kernels)")
    if options.peer and not (options.peer / "csrc").is_dir():
        parser.error(f"--peer {options.peer}: is no folder with csrc and site (docs/kernels.md)")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    peers = {}
    if options.peer:
        build_peer_conv(options.peer)
        peers = {f"peer {c}": peer_functions(options.peer, int(c)) for c in options.chunks.split(",")}
    for text in options.shapes.split(","):
        batch, tokens = map(int, text.split("x"))
        if options.tune:
            tune(batch, tokens)
        if "check" in only:
            check(batch, tokens, peers)
        if "causes" in only:
            causes(batch, tokens, peers)
        if "time" in only:
            time(batch, tokens, peers)
        if "profile" in only:
            docs = documents(batch, tokens)
            profile(our_mix, mix_inputs(batch, tokens), docs)


if __name__ == "__main__":
    main()
