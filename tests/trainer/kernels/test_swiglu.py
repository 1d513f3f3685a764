"""silu(gate) * up and its gradient are right, in plain torch and in Triton, whatever the width."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import silu

from tests.trainer.kernels.cases import relative
from trainer.config import Compute
from trainer.distributed import fsdp
from trainer.kernels import ops
from trainer.model.mlp import MLP


def plain(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4


def test_the_op_and_its_gradient_are_those_of_autograd() -> None:
    gate_up = drawn(2, 5, 24).requires_grad_()
    assert torch.equal(ops.swiglu(gate_up), plain(gate_up))
    torch.autograd.gradcheck(ops.swiglu, gate_up)


@pytest.mark.parametrize("width", [8, 96, 2500])
def test_the_kernel_gives_the_reference_s_gradient(triton_kernels: torch.device, width: int) -> None:
    """Over one block of columns and more, whole and not."""
    exact = drawn(3, 2, 2 * width).requires_grad_()
    grad = drawn(3, 2, width)
    (wanted,) = torch.autograd.grad(plain(exact), exact, grad)
    gate_up = exact.detach().float().to(triton_kernels).requires_grad_()
    (got,) = torch.autograd.grad(ops.swiglu(gate_up), gate_up, grad.float().to(triton_kernels))
    assert relative(got.double().cpu(), wanted) < 1e-6


def test_gates_that_are_shut_or_open_have_finite_gradients(triton_kernels: torch.device) -> None:
    gate_up = torch.tensor([[-80.0, 1e4, 80.0, 1.0, 1.0, 3.0]], device=triton_kernels).requires_grad_()
    ops.swiglu(gate_up).sum().backward()
    assert gate_up.grad is not None
    torch.testing.assert_close(gate_up.grad.cpu(), torch.tensor([[0.0, 1.0, 3.0, 0.0, 1e4, 80.0]]))


def test_torch_finds_nothing_wrong_with_the_op() -> None:
    gate_up = drawn(2, 3, 8)
    torch.library.opcheck(torch.ops.bamba.swiglu_backward.default, (gate_up, drawn(2, 3, 4)))


@pytest.mark.parametrize("width", [8, 96, 1500])
def test_without_gradients_the_kernel_gives_the_same(triton_kernels: torch.device, width: int) -> None:
    gate_up = drawn(3, 2, 2 * width)
    got = ops.swiglu_now(gate_up.float().to(triton_kernels))
    assert relative(got.double().cpu(), plain(gate_up)) < 1e-6
    assert torch.equal(ops.swiglu_now(gate_up), plain(gate_up))  # float64: plain torch


@pytest.mark.filterwarnings("default")  # the compiler's own
def test_of_an_mlp_that_is_recomputed_a_compiled_graph_keeps_the_input_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 kept the result, too; 2.13 does not."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    mlp, x = MLP(16, 40), torch.randn(7, 16, requires_grad=True)
    kept: set[tuple[int, ...]] = set()

    def note(saved: torch.Tensor) -> torch.Tensor:
        if not isinstance(saved, torch.nn.Parameter):
            kept.add(tuple(saved.shape))
        return saved

    again = fsdp._computed(mlp.forward, Compute(dtype="float32", compile=True, recompute="full"))
    with saved_tensors_hooks(note, lambda saved: saved):
        out = again(x)
    out.sum().backward()
    assert kept == {tuple(x.shape)}


def test_who_imports_the_kernels_does_not_wait_for_the_compiler() -> None:
    """It takes two seconds, of every command that writes a text or asks a checkpoint."""
    code = "import sys, trainer.kernels.ops; print('torch._dynamo' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
