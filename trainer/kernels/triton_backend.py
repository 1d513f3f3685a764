"""The Triton kernels under the names of `reference`."""

from .conv import conv_backward, conv_forward
from .gated_norm import norm_backward, norm_forward
from .ssd_backward import scan_backward
from .ssd_forward import scan_forward
from .swiglu import swiglu_backward

__all__ = [
    "conv_backward",
    "conv_forward",
    "norm_backward",
    "norm_forward",
    "scan_backward",
    "scan_forward",
    "swiglu_backward",
]
