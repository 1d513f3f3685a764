"""What the compiler makes of every kernel, for a GPU that need not be here: registers, spilled bytes, shared memory.

    python -m benchmarks.kernel_resources                      an H100's, an A100's and a B200's launches
    python -m benchmarks.kernel_resources --gpu A100 --json    for a program
    python -m benchmarks.kernel_resources --gpu A100 --launch scan_forward.FORWARD=8,2,32,0
    python -m benchmarks.kernel_resources --shape 128,256 --dtype float32    heads of 128, a state of 256

Bamba's block (128 heads of 64, state 128, bfloat16), or one of another shape, is run forward and backward with Triton's
compiler in the place of a GPU: kernels, arguments and launches are those of a training step, nothing is executed. A
launch is warps, stages, block and registers (trainer/kernels/launch.py).
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from benchmarks.kernels import HEADS, STATE, WIDTH
from trainer.kernels import backends, ops, ssd_forward, tiles, triton_backend, tuned_launches
from trainer.kernels import launch as kernel_launch
from trainer.kernels.launch import Launch
from trainer.kernels.shapes import Carried

#: Compute capability, and the bytes of shared memory that a program may have.
GPUS = {
    "H100": ((9, 0), tuned_launches.HOPPER_SHARED_BYTES),
    "A100": ((8, 0), tuned_launches.A100_SHARED_BYTES),
    "B200": ((10, 0), tuned_launches.HOPPER_SHARED_BYTES),
}


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one compiled kernel. stack_bytes: what a thread keeps in memory, since its registers were spent."""

    kernel: str
    warps: int
    stages: int
    registers: int
    stack_bytes: int
    shared_bytes: int


class OnlyCompiler:
    """A driver of Triton's without a device: enough of one to compile."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.number = 10 * capability[0] + capability[1]

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.number, 32)

    def get_current_device(self) -> int:
        return self.number  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Mamba2 block; as it stands, Bamba-9B's."""

    head_dim: int = WIDTH
    state: int = STATE
    heads: int = HEADS
    dtype: torch.dtype = torch.bfloat16


BAMBA = Shape()


def block_inputs(shape: Shape, batch: int = 2, tokens: int = 256) -> list[Tensor]:
    """What `ops.mix` takes. Few tokens: a kernel is the same for any number of 16s."""
    inner = shape.heads * shape.head_dim
    channels = inner + 2 * shape.state
    kinds = {"dtype": shape.dtype, "requires_grad": True}
    zxbcdt = torch.zeros(batch, tokens, inner + channels + shape.heads, **kinds)
    convolution = [torch.zeros(channels, 4, **kinds), torch.zeros(channels, **kinds)]
    decays = [torch.zeros(shape.heads, requires_grad=True) for _ in range(3)]
    return [zxbcdt, *convolution, *decays, torch.zeros(inner, **kinds)]


def compiled(gpu: str, launches: dict[str, Launch], shape: Shape = BAMBA) -> list[Resources]:
    """All kernels of a block's forward and backward, of rows that go on, of the MLP, of float8, of writing on and of
    the update; once for each set of flags.

    Triton is left without a GPU: not for a process that also runs kernels.
    """
    capability, _ = GPUS[gpu]
    found: dict[str, Any] = {}

    def compile_only(function: Any, _: Any) -> Any:
        def launched(*arguments: Any, **options: Any) -> None:
            kernel = function.run(*arguments, grid=(1,), warmup=True, **options)
            found.setdefault(kernel.hash, (function.fn.__name__, kernel))

        return launched

    before = tuned_launches.current()
    tuned_launches.apply(launches)
    triton.runtime.driver.set_active(OnlyCompiler(capability))
    try:
        with (
            mock.patch.object(JITFunction, "__getitem__", compile_only),
            mock.patch.object(tiles, "has_copy_engine", lambda _: capability[0] >= tiles.COPY_ENGINE),
            mock.patch.object(backends, "backend", lambda *_: triton_backend),
        ):
            for keep in (True, False):
                _block(shape, keep)
            if capability[0] == kernel_launch.HOPPER:
                with mock.patch.object(ssd_forward, "is_hopper", lambda _: True):
                    for keep in (True, False):
                        _block(shape, keep)
                    _go_on(shape)
            gate_up = torch.zeros(2, 256, 2 * 14336, dtype=torch.bfloat16, requires_grad=True)
            ops.swiglu(gate_up).sum().backward()
            for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
                for rows in (256, 250):
                    ops.float8_cast(torch.zeros(rows, 4096, dtype=torch.bfloat16), torch.ones(()), dtype)
            _go_on(shape)
            _write_on(shape)
            _update()
    finally:
        tuned_launches.apply(before)
    return [read(name, kernel) for name, kernel in found.values()]


def _block(shape: Shape, keep: bool) -> None:
    inputs = block_inputs(shape)
    out = ops.mix(*inputs, torch.zeros(2, 256, dtype=torch.int32), 1e-5, keep)
    torch.autograd.grad(out, inputs, torch.zeros_like(out))


def _go_on(shape: Shape) -> None:
    """Rows that go on from others and hand on, as where ranks share rows; and a row alone, where there is a
    multiprocessor for each of its programs: some launches take more stages then."""
    ids = torch.zeros(2, 256, dtype=torch.int32)
    inputs = block_inputs(shape)
    _, carried = ops.mix_carried(*inputs, ids, 1e-5, None)
    out, last = ops.mix_carried(*inputs, ids, 1e-5, carried)
    torch.autograd.grad([out, last.state], inputs, [torch.zeros_like(out), torch.zeros_like(last.state)])
    with mock.patch.object(kernel_launch, "multiprocessors", lambda _: 1 << 20):
        inputs = block_inputs(shape, batch=1)
        out = ops.mix(*inputs, ids[:1], 1e-5)
        torch.autograd.grad(out, inputs, torch.zeros_like(out))


def _write_on(shape: Shape) -> None:
    """What one more token of a text launches beside the products."""
    zxbcdt, *parameters = block_inputs(shape, tokens=1)
    channels = parameters[1].shape[0]
    state = torch.zeros(2, shape.heads, shape.head_dim, shape.state)
    halo = torch.zeros(2, 3, channels, dtype=shape.dtype)
    carried = Carried(state, halo, torch.zeros(2, 3, dtype=torch.int32))
    ops.step(zxbcdt, *parameters, carried, 1e-5)
    ops.swiglu_now(torch.zeros(2, 1, 2 * 14336, dtype=shape.dtype))
    x, weight = torch.zeros(2, 1, 4096), torch.zeros(4096)
    ops.residual_norm(x, x.to(shape.dtype), weight, 1e-5, shape.dtype)


def _update() -> None:
    """Of whole blocks and of others, by gradients in bfloat16 and float32."""
    for rows in (16, 13):
        for dtype in (torch.bfloat16, torch.float32):
            weight, first, second = (torch.zeros(rows, 512, dtype=torch.bfloat16) for _ in range(3))
            salt, healthy = torch.zeros(2, dtype=torch.int32), torch.tensor(True)
            grad = torch.zeros(rows, 512, dtype=dtype)
            ops.adamw_step(weight, grad, first, second, salt, torch.zeros(5), healthy, 0.9, 0.95)


def read(name: str, kernel: Any) -> Resources:
    """From the machine code, by the tool that Triton ships."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert usage, said
    options = kernel.metadata
    return Resources(name, options.num_warps, options.num_stages, int(usage[1]), int(usage[2]), options.shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=GPUS, action="append")
    parser.add_argument("--launch", action="append", default=[], metavar="KERNEL=WARPS,STAGES,BLOCK,REGISTERS")
    parser.add_argument("--shape", default=f"{WIDTH},{STATE}", metavar="HEAD_DIM,STATE")
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    others = {}
    for text in options.launch:
        name, _, numbers = text.partition("=")
        if name not in tuned_launches.KERNELS or not re.fullmatch(r"\d+(,\d+){0,3}", numbers):
            parser.error(
                f"--launch {text}: say one of {', '.join(tuned_launches.KERNELS)}, then = and up to four numbers"
            )
        others[name] = Launch(*map(int, numbers.split(",")))
    head_dim, state = map(int, options.shape.split(","))
    shape = Shape(head_dim, state, options.heads, getattr(torch, options.dtype))
    for gpu in options.gpu or GPUS:
        found = compiled(gpu, tuned_launches.shipped(gpu, GPUS[gpu][1], GPUS[gpu][0][0]) | others, shape)
        if options.json:
            json.dump([asdict(one) for one in found], sys.stdout)
            print()
            continue
        print(f"{gpu}, Triton {triton.__version__}: warps, stages, registers, stack bytes a thread, shared bytes")
        for one in found:
            print(
                f"  {one.kernel:22} {one.warps} {one.stages} {one.registers:4} {one.stack_bytes:5} {one.shared_bytes:7}"
            )


if __name__ == "__main__":
    main()
