"""The Triton kernels under the names of `reference`."""

from trainer.kernels.conv import conv_backward, conv_forward
from trainer.kernels.norm import norm_backward, norm_forward
from trainer.kernels.scan_backward import scan_backward
from trainer.kernels.scan_forward import scan_forward
from trainer.kernels.swiglu import swiglu_backward

__all__ = [
    "conv_backward",
    "conv_forward",
    "norm_backward",
    "norm_forward",
    "scan_backward",
    "scan_forward",
    "swiglu_backward",
]
