"""The kernels as torch custom ops: one op, one graph, on a GPU (Triton) and on a CPU (the reference).

    mix(zxbcdt, …)          all of a Mamba2 block between its two linears; the model's op (mix_op.py)
    mix_carried(zxbcdt, …)  the same for a row that goes on from another: takes and returns what passes between
    step(zxbcdt, …)         the same for one token a row, without gradients, in place (step_op.py)
    scan(x, dt, …)          the SSD scan alone, with the state that enters and the one that leaves (scan_op.py)
    swiglu(gate_up)         silu(gate) * up of the MLP (swiglu_op.py); `swiglu_now` without gradients
    residual_norm(x, …)     x + branch and its norm, without gradients (residual_norm_op.py)
    float8_cast(x, …)       a matrix in float8 as it lies and turned (float8_cast_op.py)
    adamw_step(weight, …)   an update of a bfloat16 matrix, in place, rounded at random (adamw_step_op.py)

The order of an op's arguments is stated once, by the fields of `shapes.MixInputs` and `shapes.ScanInputs`; schemas,
fakes and FLOP formulas are made from them.
"""

from .adamw_step_op import adamw_step as adamw_step
from .float8_cast_op import float8_cast as float8_cast
from .mix_op import mix as mix
from .mix_op import mix_carried as mix_carried
from .residual_norm_op import residual_norm as residual_norm
from .scan_op import scan as scan
from .step_op import step as step
from .swiglu_op import swiglu as swiglu
from .swiglu_op import swiglu_now as swiglu_now
