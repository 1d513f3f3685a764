"""A head wider than the kernels' tiles, scanned as several narrow ones: the same function.

Nothing passes between the channels of a head: they share its dt, A, D, B and C, and each has its own numbers of the
state. So a head of 256 channels is two of 128 side by side that were given the same, and its state, (head_dim, state),
is theirs one after the other. Large tensors are only looked at anew; dt is repeated, a number a part and token, and the
gradients of what parts share are sums over them, in float32.
"""

import torch
from torch import Tensor

from . import ssd_backward, ssd_forward, ssd_states
from .shapes import GradLast, ScanGrads, ScanInputs, arrived
from .supported import part_width


def scan_forward(inputs: ScanInputs, keep: bool = False, hand_on: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """As `ssd_forward.scan_forward`; the kept states lie by parts."""
    if (parts := _parts(inputs)) == 1:
        return ssd_forward.scan_forward(inputs, keep, hand_on)
    y, states, last = ssd_forward.scan_forward(_parted(inputs, parts), keep, hand_on)
    batch, _, heads, width = inputs.x.shape
    size = inputs.B.shape[-1]
    kept = states.view(batch, -1, heads, size, width) if keep else states
    return y.view(inputs.x.shape), kept, last.view(batch, heads, width, size) if hand_on else last


def scan_backward(
    inputs: ScanInputs,
    kept: Tensor,
    grad: Tensor,
    out: ScanGrads,
    grad_last: GradLast = None,
    out_state: Tensor | None = None,
) -> Tensor:
    """As `ssd_backward.scan_backward`."""
    if (parts := _parts(inputs)) == 1:
        return ssd_backward.scan_backward(inputs, kept, grad, out, grad_last, out_state)
    batch, tokens, heads, width = inputs.x.shape
    size = inputs.B.shape[-1]
    narrow = (heads * parts, width // parts)
    ddt = torch.empty((batch, tokens, heads * parts), dtype=torch.float32, device=grad.device)
    shared = ssd_backward.scan_backward(
        _parted(inputs, parts),
        kept.view(batch, -1, narrow[0], size, narrow[1]) if kept.numel() else kept,
        _narrow(grad, parts),
        ScanGrads(_narrow(out.x, parts), ddt, out.B, out.C),
        lambda: _state(arrived(grad_last), parts),
        _state(out_state, parts),
    )
    out.dt.copy_(ddt.unflatten(-1, (heads, parts)).sum(-1))
    return shared.view(-1, 3, heads, parts).sum(-1)


def passing(inputs: ScanInputs, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `ssd_states.passing`."""
    if (parts := _parts(inputs)) == 1:
        return ssd_states.passing(inputs, grad)
    added, passed = ssd_states.passing(_parted(inputs, parts), None if grad is None else _narrow(grad, parts))
    batch, _, heads, width = inputs.x.shape
    return added.view(batch, heads, width, -1), passed[:, ::parts].contiguous()


def _parts(inputs: ScanInputs) -> int:
    width = inputs.x.shape[-1]
    return width // part_width(width, inputs.B.shape[-1])


def _parted(inputs: ScanInputs, parts: int) -> ScanInputs:
    each = {name: getattr(inputs, name).repeat_interleave(parts, -1) for name in ("dt", "A_log", "D", "dt_bias")}
    return inputs._replace(x=_narrow(inputs.x, parts), state_in=_state(inputs.state_in, parts), **each)


def _narrow(by_head: Tensor, parts: int) -> Tensor:
    """(batch, tokens, heads, head_dim) by parts, in the same memory."""
    batch, tokens, heads, width = by_head.shape
    return by_head.view(batch, tokens, heads * parts, width // parts)


def _state(border: Tensor | None, parts: int) -> Tensor | None:
    """`shapes.border_state` by parts, in the same memory."""
    return None if border is None else border.unflatten(2, (parts, -1)).flatten(1, 2)
