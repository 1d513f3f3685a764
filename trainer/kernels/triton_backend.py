"""The Triton kernels under the names of `reference`: one `backends.Backend`."""

from .adamw_step import adamw_step as adamw_step
from .column_sums import column_sums as column_sums
from .conv import conv_backward as conv_backward
from .conv import conv_forward as conv_forward
from .float8_cast import float8_cast as float8_cast
from .gated_norm import norm_backward as norm_backward
from .gated_norm import norm_forward as norm_forward
from .head_parts import passing as passing
from .head_parts import scan_backward as scan_backward
from .head_parts import scan_forward as scan_forward
from .residual_norm import residual_norm as residual_norm
from .step import step as step
from .swiglu import swiglu_backward as swiglu_backward
from .swiglu import swiglu_forward as swiglu_forward
