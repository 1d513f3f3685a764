"""Small functions that several kernels call."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # on a CPU, which has no instruction of a GPU


@triton.jit
def wide(number):
    """A scalar as int64: an offset that may pass 2**31 elements is computed in it."""
    return tl.full([], number, tl.int64)


@triton.jit
def at_most(x, bound):
    """The smaller of two numbers, and NaN where one is: `tl.minimum` alone gives the other one, so that a broken input
    would become a finite output, which no guard can see."""
    return tl.minimum(x, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def at_least(x, bound):
    """The larger of two numbers, and NaN where one is."""
    return tl.maximum(x, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), zero below -87.3, where it would be no normal number.

    A reciprocal by one instruction, off by one in the last place; Triton's division takes six.
    """
    whole = 1.0 + tl.exp2(x * -1.4426950408889634)
    if INTERPRETED:
        return 1.0 / whole
    else:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [whole], tl.float32, True, 1)


@triton.jit
def softplus(raw):
    """log(1 + exp(raw)), to full float32 precision also where it is tiny."""
    small = tl.exp(at_most(raw, 20.0))
    grown = 1.0 + small
    exact = tl.where(grown == 1.0, small, tl.log(grown) * small / tl.where(grown == 1.0, 1.0, grown - 1.0))
    return tl.where(raw > 20.0, raw, exact)
