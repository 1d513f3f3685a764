"""Where an error in bfloat16 comes from: the exact mathematics, with nothing rounded but what lies between two kernels.

A kernel computes in float32 and leaves bfloat16 for the next one. `between` does all in float64 and rounds only that:
what the convolution leaves for the scan, the scan for the norm, and the same on the way back. An error that it has too
is no kernel's: whoever keeps these tensors in bfloat16 has it, mamba_ssm as well as we.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor

from trainer.kernels import backends, reference
from trainer.kernels.shapes import ScanGrads, ScanInputs


def coarse(tensor: Tensor) -> Tensor:
    """Rounded to bfloat16, in its own dtype."""
    return tensor.bfloat16().to(tensor.dtype)


class Between:
    """`trainer.kernels.reference` with bfloat16 between its parts; see `trainer.kernels.backends.Backend`."""

    swiglu_backward = staticmethod(reference.swiglu_backward)
    norm_forward = staticmethod(reference.norm_forward)
    passing = staticmethod(reference.passing)
    column_sums = staticmethod(reference.column_sums)

    @staticmethod
    def conv_forward(*given: Tensor) -> Tensor:
        return coarse(reference.conv_forward(*given))

    @staticmethod
    def scan_forward(inputs: ScanInputs, keep: bool = False, hand_on: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        y, states, last = reference.scan_forward(inputs, keep, hand_on)
        return coarse(y), states, last

    @staticmethod
    def norm_backward(*given: Tensor) -> tuple[Tensor, Tensor]:
        dy, of_weight = reference.norm_backward(*given)  # type: ignore[arg-type]
        return coarse(dy), of_weight

    @staticmethod
    def scan_backward(
        inputs: ScanInputs, kept: Tensor, grad: Tensor, out: ScanGrads, *of_state: Tensor | None
    ) -> Tensor:
        small = reference.scan_backward(inputs, kept, grad, out, *of_state)
        for tensor in (out.x, out.B, out.C):
            tensor.copy_(coarse(tensor))
        return small

    @staticmethod
    def conv_backward(*given: Tensor) -> Tensor:
        return reference.conv_backward(*given)


@contextmanager
def between() -> Iterator[None]:
    """Meanwhile the ops compute so, on tensors of float64."""
    with mock.patch.object(backends, "backend", lambda *_: Between()):
        yield
