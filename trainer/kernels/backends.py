"""Which implementation of the mathematics an op runs: the Triton kernels, or plain torch.

With TRITON_INTERPRET=1 the Triton kernels run on a CPU, in Triton's interpreter: that is how the tests reach them.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from . import reference
from .shapes import GradLast, MixInputs, ScanGrads, ScanInputs
from .supported import part_width


class Backend(Protocol):
    """One implementation of the mathematics: `reference`, or the Triton kernels."""

    def conv_forward(self, xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor) -> Tensor: ...

    def conv_backward(
        self, xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor, grad: Tensor, out: Tensor
    ) -> Tensor: ...

    def norm_forward(self, y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor: ...

    def norm_backward(
        self, y: Tensor, z: Tensor, weight: Tensor, eps: float, grad: Tensor, out_z: Tensor, groups: int
    ) -> tuple[Tensor, Tensor]: ...

    def scan_forward(
        self, inputs: ScanInputs, keep: bool = False, hand_on: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def scan_backward(
        self,
        inputs: ScanInputs,
        kept: Tensor,
        grad: Tensor,
        out: ScanGrads,
        grad_last: GradLast = None,
        out_state: Tensor | None = None,
    ) -> Tensor: ...

    def column_sums(
        self, parameters: Sequence[Tensor], scan: Tensor, conv: Tensor | None = None, norm: Tensor | None = None
    ) -> list[Tensor]: ...

    def passing(self, inputs: ScanInputs, grad: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    def step(self, given: MixInputs, eps: float) -> Tensor: ...

    def swiglu_forward(self, gate_up: Tensor) -> Tensor: ...

    def swiglu_backward(self, gate_up: Tensor, grad: Tensor) -> Tensor: ...

    def float8_cast(self, x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]: ...

    def residual_norm(
        self, x: Tensor, branch: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]: ...

    def adamw_step(
        self,
        weight: Tensor,
        grad: Tensor,
        first: Tensor,
        second: Tensor,
        salt: Tensor,
        numbers: Tensor,
        healthy: Tensor,
        beta1: float,
        beta2: float,
    ) -> None: ...


def backend(tensor: Tensor, head_dim: int = 64, state: int = 64) -> Backend:
    """Triton where the tensor is on a GPU or the interpreter is asked for; else the reference.

    The reference also takes float64, and on a GPU float32 with narrow heads or states, as only toy models have them:
    Triton 3.6 compiles such tiles to reads beyond the shared memory.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if tensor.dtype == torch.float64 or not (tensor.is_cuda or interpreted):
        return reference
    if tensor.is_cuda and tensor.dtype == torch.float32 and min(part_width(head_dim, state), state) < 32:
        return reference
    # Not at the top: a machine without Triton trains by the reference.
    from . import triton_backend, tuned_launches

    if tensor.is_cuda:
        tuned_launches.ready(tensor.device)
    return triton_backend
