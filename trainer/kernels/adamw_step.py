"""A step of AdamW on bfloat16 weights and moments in Triton: one pass over memory, rounded at random on the way back.

An element is 14 bytes with a bfloat16 gradient, and as the compiler writes the plain form 75 to 100 instructions, which
take longer than the bytes. Here it is 42 (sm_90, Triton 3.6, 56 registers, nothing spilled):

- a clip, two corrections and a decay are factors made once for all matrices: one root and one division are left. The
  root is the device's own, to 2^-23, one instruction; rounded as IEEE wants it is 17 more, with its slow path. The
  division is Triton's, to 2 units of the last digit. (The square of a reciprocal root takes 6 instructions less, and
  the step could be further from float64 than by the compiler's four divisions.)
- bfloat16 is the upper half of a float32, so widening is a shift, and rounding an addition of integers and a shift. A
  conversion takes a slow unit, for a number that is exact already.
- one round of the hash an element: the update and the matrix are mixed before, once a program.
- a NaN draws no bits: one choice for three results. An update that is not to be is left before a matrix is read.
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, on, pieces
from .math import wide

# 16 elements a thread, as two times 16 bytes: 42.4 instructions an element; of 8, 45.4. Chosen by that, not by time.
STEP = Launch(warps=4, block=2048)


@triton.jit
def _mixed(x):
    """`adamw_reference.mixed`, of uint32."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def _widened(x):
    """To float32. By hand: Triton's own conversion of bfloat16 takes two instructions more for four numbers."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def _rounded(x, drawn):
    """`adamw_reference.rounded`, by drawn bits in uint32."""
    return ((x.to(tl.uint32, bitcast=True) + drawn) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def moved_by(weight, grad, first, second, clip, keep, pace, least, rest1, rest2):
    """`adamw_reference.moved_by`, all in float32. A root of less than 2^-126 is 0: far below `least`."""
    slope = grad * clip
    mean = first + rest1 * (slope - first)
    square = second + rest2 * (slope * slope - second)
    return weight * keep - pace * (mean / (tl.sqrt(square) + least)), mean, square


@triton.jit
def _adamw_step(
    weight, grad, first, second, salt, numbers, healthy,
    count, rest1, rest2,
    WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`WHOLE`: the count is one of whole blocks, so nothing is masked."""
    if tl.load(healthy) == 0:
        return
    clip, keep, pace, least = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)
    key = _mixed((tl.load(salt) + tl.load(numbers + 4).to(tl.int32)).to(tl.uint32, bitcast=True))
    # addresses from the block's place in 64 bits; the random bits count in 32, as in the plain form
    place, element = wide(tl.program_id(0)) * BLOCK, tl.arange(0, BLOCK)
    key += tl.load(salt + 1).to(tl.uint32, bitcast=True) + place.to(tl.uint32)
    live = None if WHOLE else element < count - place
    weight, grad, first, second = weight + place, grad + place, first + place, second + place
    stepped, mean, square = moved_by(
        _widened(tl.load(weight + element, mask=live)), _widened(tl.load(grad + element, mask=live)),
        _widened(tl.load(first + element, mask=live)), _widened(tl.load(second + element, mask=live)),
        clip, keep, pace, least, rest1, rest2,
    )  # fmt: skip
    drawn = tl.where(stepped == stepped, _mixed(element.to(tl.uint32) + key), 0)
    tl.store(weight + element, _rounded(stepped, drawn & 0xFFFF), mask=live)
    tl.store(first + element, _rounded(mean, drawn >> 16), mask=live)
    tl.store(second + element, _rounded(square, drawn >> 16), mask=live)


def adamw_step(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, salt: Tensor, numbers: Tensor, healthy: Tensor,
    beta1: float, beta2: float,
) -> None:  # fmt: skip
    """`ops.adamw_step`; all are contiguous."""
    count = weight.numel()
    with on(weight):
        _adamw_step[(pieces(count, STEP.block),)](
            weight, grad, first, second, salt, numbers, healthy,
            count, 1 - beta1, 1 - beta2,
            WHOLE=count % STEP.block == 0, BLOCK=STEP.block, **STEP.options(),
        )  # fmt: skip
