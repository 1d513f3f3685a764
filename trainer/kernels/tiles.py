"""Tensors that a kernel reads and writes in tiles: by Hopper's copy engine, by pointers on a GPU that has none.

Zeros come from beyond the last token, and nothing is written there. The host says what a tile is (`tiles`, `stack`); a
kernel opens it once (`opened`) and loads and stores by the first coordinates of a tile, the same code for both ways.
"""

from functools import cache
from math import prod
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

COPY_ENGINE = 9  # the first compute capability that has one


class Pointers(NamedTuple):
    """What a TensorDescriptor holds, for a kernel that makes the addresses itself; the last stride is 1.

    Handed over as a TensorDescriptor, numbers would be mere numbers: a kernel that does not know that columns lie side
    by side and rows on 16 bytes loads one number at a time (for an A100, eight times the loads).
    """

    pointer: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[tl.constexpr, ...]


@cache
def has_copy_engine(device: torch.device) -> bool:
    """Of a GPU. A CPU, that is Triton's interpreter, does as a Hopper does."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= COPY_ENGINE


def tiles(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor | Pointers:
    """(batch, tokens, …) as tiles of one sequence, so many tokens and so many of what lies side by side after them.

    The dimensions after the tokens lie side by side; strides are multiples of 16 bytes.
    """
    batch, tokens, *rest = tensor.shape
    by_batch, by_token = tensor.stride()[:2]
    return _described(tensor, [batch, tokens, prod(rest)], [by_batch, by_token, 1], [1, rows, columns])


def stack(tensor: Tensor, rows: int, columns: int | None = None) -> TensorDescriptor | Pointers:
    """A contiguous tensor as one tall matrix of its last dimension, in tiles of so many rows and columns, or all."""
    width = tensor.shape[-1]
    return _described(tensor, [tensor.numel() // width, width], [width, 1], [rows, columns or width])


def _described(tensor: Tensor, shape: list[int], strides: list[int], block: list[int]) -> TensorDescriptor | Pointers:
    """A tensor seen in another shape. It is not viewed: of a launch's time on the host that was a tenth."""
    if has_copy_engine(tensor.device):
        return TensorDescriptor(tensor, shape, strides, block)
    return Pointers(tensor, tuple(shape), tuple(strides), tuple(tl.constexpr(size) for size in block))


@triton.jit
def opened(tensor):
    """Either way of access, ready for `load` and `store`."""
    if isinstance(tensor, tl.core.tensor_descriptor_base):
        return tensor
    elif len(tensor.shape) == 2:
        return tl.make_tensor_descriptor(
            tensor.pointer,
            [tensor.shape[0], tensor.shape[1]],
            [tensor.strides[0], 1],
            [tensor.block[0], tensor.block[1]],
        )
    else:
        return tl.make_tensor_descriptor(
            tensor.pointer,
            [tensor.shape[0], tensor.shape[1], tensor.shape[2]],
            [tensor.strides[0], tensor.strides[1], 1],
            [tensor.block[0], tensor.block[1], tensor.block[2]],
        )
