"""A step of AdamW on bfloat16 weights and moments in plain torch: what the kernel must compute, random bits included.

A result between two bfloat16 numbers becomes the one further from zero with the probability of its place between them.
The bits that say which are a hash of (matrix, element of the whole matrix, number of updates):

    key   = mixed(salt of the matrix + updates)       once for a matrix and an update
    drawn = mixed(element + key)                      one round an element

`mixed` is a bijection in which each bit depends on all others, so an element is never given the same 32 bits twice, and
neighbours, successive updates and the two halves of the bits are as coin tosses (tests/trainer/kernels,
test_random_bits.py). Two updates draw from one sequence of 2^32 numbers, a random distance apart, and so may two
matrices: then one element has the bits that another one had at another time. Rounding asks no more: that what is added
to an element is right in the mean, and that errors which add up somewhere, of an element over time or of a row in one
product, know nothing of each other.
"""

import torch
from torch import Tensor


def adamw_step(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, salt: Tensor, numbers: Tensor, healthy: Tensor,
    beta1: float, beta2: float,
) -> None:  # fmt: skip
    """`ops.adamw_step`."""
    clip, keep, pace, least, moved = numbers
    stepped, mean, square = moved_by(
        weight.float(), grad.float(), first.float(), second.float(), clip, keep, pace, least, 1 - beta1, 1 - beta2
    )
    drawn = random_bits(weight.numel(), salt, moved).view(weight.shape)
    drawn = torch.where(stepped.isnan(), 0, drawn)
    lower, upper = drawn & 0xFFFF, (drawn >> 16) & 0xFFFF
    for old, new, bits in ((weight, stepped, lower), (first, mean, upper), (second, square, upper)):
        old.copy_(torch.where(healthy, rounded(new, bits), old))


def moved_by(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor,
    clip: Tensor, keep: Tensor, pace: Tensor, least: Tensor,
    rest1: float, rest2: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The new weight and moments before they are rounded. With both moments' corrections in `pace` and `least` this is
    the usual step, lr * (mean / part1) / (sqrt(square / part2) + eps)."""
    slope = grad * clip
    mean = first + rest1 * (slope - first)
    square = second + rest2 * (slope * slope - second)
    # By float64, which gives the nearest float32: MKL, to which torch leaves roots on a CPU, misses it on AMD
    # processors for one number in six. So all processors have the same bits, and those of the kernel.
    root = square.double().sqrt().float()
    return weight * keep - pace * (mean / (root + least)), mean, square


def random_bits(count: int, salt: Tensor, moved: Tensor) -> Tensor:
    """32 for each of so many elements from `salt[1]` on, int32."""
    key = mixed(salt[0] + moved.int()) + salt[1]
    return mixed(torch.arange(count, dtype=torch.int32, device=salt.device) + key)


def rounded(wide: Tensor, drawn: Tensor) -> Tensor:
    """float32 to bfloat16, away from zero where `drawn`, int32 in [0, 2^16), and the bits that are cut off make a
    carry. A NaN stays one where nothing is drawn: the one that a GPU makes is all ones, which a carry turns into zero.
    So a step draws nothing where the weight becomes NaN, as it does wherever a moment is."""
    return ((wide.view(torch.int32) + drawn) >> 16).to(torch.int16).view(torch.bfloat16)


def mixed(x: Tensor) -> Tensor:
    """A bijection of int32 in which every bit depends on every other (the finalizer of MurmurHash3)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)
