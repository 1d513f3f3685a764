"""The convolution of rows that go on from others: the first tokens, as many as the filter reaches back, are a row of
their own with the halo before them, and the kernels know of no halo."""

import torch
from torch import Tensor

from .backends import Backend
from .shapes import MixInputs
from .supported import CONV_WIDTH

HALO = CONV_WIDTH - 1  # tokens that the filter reaches back


def _first_row(xbc: Tensor, given: MixInputs, halo: Tensor) -> tuple[Tensor, Tensor]:
    """The halo and the first tokens: x | B | C, and their documents."""
    assert given.documents_in is not None
    ids = torch.cat([given.documents_in, given.documents[:, :HALO]], 1)
    return torch.cat([halo, xbc[:, :HALO]], 1), ids


def convolve(run: Backend, xbc: Tensor, given: MixInputs) -> Tensor:
    """The convolution's output, of rows with or without a halo."""
    convolved = run.conv_forward(xbc, given.conv_weight, given.conv_bias, given.documents)
    if given.halo_in is not None:
        go_on(run, convolved, xbc, given, given.halo_in)
    return convolved


def go_on(run: Backend, convolved: Tensor, xbc: Tensor, given: MixInputs, halo: Tensor) -> None:
    """Make the output of the first tokens anew, in place, now that the halo is known."""
    row, ids = _first_row(xbc, given, halo)
    first = run.conv_forward(row, given.conv_weight, given.conv_bias, ids)
    convolved[:, :HALO] = first[:, HALO:]


def first_gradients(
    run: Backend, xbc: Tensor, given: MixInputs, halo: Tensor, dconvolved: Tensor
) -> tuple[Tensor, Tensor]:
    """What the outputs of the first tokens give: the gradient of halo and first tokens, (batch, 3 or more, channels),
    and the table for those of weight and bias. `dconvolved` is zero there afterwards: the rest of the row knows nothing
    of it."""
    row, ids = _first_row(xbc, given, halo)
    drow = torch.zeros_like(row)
    drow[:, HALO:] = dconvolved[:, :HALO]
    dconvolved[:, :HALO] = 0
    found = torch.empty_like(row)
    return found, run.conv_backward(row, given.conv_weight, given.conv_bias, ids, drow, found)
