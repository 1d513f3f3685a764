"""`bamba::mix`: all of a Mamba2 block between its two linears: convolution, silu, scan, gated norm.

Its backward writes the gradient of the packed projection in place, piece by piece, and keeps from the forward its
input, the scan's output and, by choice, the convolution's and some states.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.flop_counter import register_flop_formula

from . import backends
from .checks import check_mix
from .conv_halo import HALO, convolve, first_gradients
from .op_arguments import gradients_of_inputs, quick, tensor_arguments
from .scan_op import scan_flops
from .shapes import (
    MIX_TENSORS,
    Carried,
    MixInputs,
    ScanGrads,
    ScanInputs,
    border_state,
    kept_states,
    split_conv,
    unpack,
)

# Graphs that somebody exported, and FLOP tables, hold these names.
MIX, MIX_BACKWARD = "bamba::mix", "bamba::mix_backward"
_ENTERING = "Tensor? state_in, Tensor? halo_in, Tensor? documents_in"
_INPUTS = f"{tensor_arguments(MIX_TENSORS)}, {_ENTERING}, int groups, int norm_groups"
_INPUTS += ", float dt_min, float dt_max, float eps"


def scan_inputs(xbc: Tensor, dt: Tensor, given: MixInputs) -> ScanInputs:
    x, B, C = split_conv(xbc, given.inner, given.heads, given.groups)
    document = None if given.documents_in is None else given.documents_in[:, -1].contiguous()
    small = (given.A_log, given.D, given.dt_bias, given.documents)
    return ScanInputs(x, dt, B, C, *small, given.state_in, document, given.dt_min, given.dt_max)


@torch.library.custom_op(
    MIX,
    mutates_args=(),
    schema=f"({_INPUTS}, bool keep, bool hand_on) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _mix(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output; for the backward the scan's output, the convolution's and the states (empty unless `keep`); and the
    last state (empty unless `hand_on`)."""
    *inputs, eps, keep, hand_on = arguments
    check_mix(given := MixInputs(*inputs))
    run = backends.backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, given.inner, given.heads)
    convolved = convolve(run, xbc, given)
    scanned, states, last = run.scan_forward(scan_inputs(convolved, dt, given), keep, hand_on)
    y = scanned.flatten(2)
    out = run.norm_forward(y, z, given.norm_weight, eps, given.norm_groups)
    return out, y, convolved if keep else convolved.new_empty(0), states, last


@_mix.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *inputs, _, keep, hand_on = arguments
    check_mix(given := MixInputs(*inputs))
    out = given.zxbcdt.new_empty((*given.documents.shape, given.inner))
    convolved = given.zxbcdt.new_empty((*given.documents.shape, given.channels) if keep else (0,))
    x = out.unflatten(-1, (given.heads, -1))
    states, last = kept_states(x, given.state, keep=keep), border_state(x, given.state, wanted=hand_on)
    return out, torch.empty_like(out), convolved, states, last


@torch.library.custom_op(
    MIX_BACKWARD,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor? grad_last, Tensor y, Tensor mixed, Tensor states, {_INPUTS}) -> Tensor[]",
)
def _mix_backward(
    grad: Tensor, grad_last: Tensor | None, y: Tensor, convolved: Tensor, states: Tensor, *arguments: Any
) -> list[Tensor]:
    """Gradients of `MIX_TENSORS` but the documents, in their order; and of state and halo that entered, if they did."""
    *inputs, eps = arguments
    given = MixInputs(*inputs)
    inner, heads = given.inner, given.heads
    run = backends.backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, inner, heads)
    # One tensor for the gradients of z, x|B|C and dt: each kernel writes its columns, and nothing is concatenated.
    dzxbcdt = torch.empty(given.zxbcdt.shape, dtype=given.zxbcdt.dtype, device=given.zxbcdt.device)
    dz, dxbc, ddt = unpack(dzxbcdt, inner, heads)
    dy, of_norm = run.norm_backward(y, z, given.norm_weight, eps, grad.contiguous(), dz, given.norm_groups)
    if not convolved.numel():  # not kept
        convolved = convolve(run, xbc, given)
    dconvolved = torch.empty_like(convolved)
    dx, dB, dC = split_conv(dconvolved, inner, heads, given.groups)
    entering = given.entering
    dstate = None if entering is None else torch.empty_like(entering.state)
    last = None if grad_last is None else grad_last.contiguous()
    of_scan = scan_inputs(convolved, dt, given)
    dscanned = dy.view(*dy.shape[:2], heads, given.head_dim)
    of_heads = run.scan_backward(of_scan, states, dscanned, ScanGrads(dx, ddt, dB, dC), last, dstate)
    if entering is None or dstate is None:
        of_conv = run.conv_backward(xbc, given.conv_weight, given.conv_bias, given.documents, dconvolved, dxbc)
        return [dzxbcdt, *run.column_sums(inputs[1:7], of_heads, of_conv, of_norm)]
    dfirst, of_first = first_gradients(run, xbc, given, entering.halo, dconvolved)
    of_conv = run.conv_backward(xbc, given.conv_weight, given.conv_bias, given.documents, dconvolved, dxbc)
    dxbc[:, :HALO] += dfirst[:, HALO:]
    of_conv[: len(of_first)] += of_first
    small = run.column_sums(inputs[1:7], of_heads, of_conv, of_norm)
    return [dzxbcdt, *small, dstate, dfirst[:, :HALO].contiguous()]


@_mix_backward.register_fake
def _(grad: Tensor, grad_last: Any, y: Tensor, convolved: Tensor, states: Tensor, *arguments: Any) -> list[Tensor]:
    *inputs, _ = arguments
    entering = MixInputs(*inputs).entering
    entered = () if entering is None else entering[:2]
    return [tensor.new_empty(tensor.shape) for tensor in (*inputs[: len(MIX_TENSORS) - 1], *entered)]


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *given, ctx.groups, ctx.norm_groups, ctx.dt_min, ctx.dt_max, ctx.eps, _, ctx.hand_on = inputs
    ctx.set_materialize_grads(False)  # no zeros for y, which only the backward uses
    ctx.save_for_backward(*output[1:4], *given)


def _mix_grads(ctx: Any, grad: Tensor | None, *more: Tensor | None) -> tuple[Tensor | None, ...]:
    y, convolved, states, *given = ctx.saved_tensors
    grad_last = more[-1] if ctx.hand_on else None
    if grad is None and grad_last is None:  # nobody asked for what the outputs were made of
        return (None,) * (len(given) + 7)
    found = torch.ops.bamba.mix_backward(
        torch.zeros_like(y) if grad is None else grad,
        *(grad_last, y, convolved, states, *given, ctx.groups, ctx.norm_groups, ctx.dt_min, ctx.dt_max, ctx.eps),
    )
    return (*gradients_of_inputs(found, len(given)), *[None] * 7)


_mix.register_autograd(_mix_grads, setup_context=_save_mix)
_quick_mix = quick(torch.ops.bamba.mix.default, _save_mix, _mix_grads)


def mix(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    eps: float,
    keep: bool = True,
    groups: int = 1,
    norm_groups: int = 1,
    dt_min: float = 0.0,
    dt_max: float = math.inf,
) -> Tensor:
    """All of a Mamba2 block between its two linears: norm(scan(silu(conv(x|B|C)), dt) * silu(z)).

    The block of the Mamba-2 paper (arXiv 2405.21060, section 7.1: parallel projections, the norm behind the gate), with
    documents apart: neither the convolution nor the scan passes from one document to the next.
    Gradients come for all but `documents`, in the dtype of their tensors. Sums, decays and states are float32 at least.

    Args:
        zxbcdt: (batch, tokens, 2 inner + 2 groups state + heads), bfloat16, float32 or float64: the columns z | x | B |
            C | dt of the first linear's output, the last dimension contiguous. `supported` has the sizes.
        conv_weight: (inner + 2 groups state, 4), for the channels x | B | C.
        conv_bias: (inner + 2 groups state,).
        A_log: (heads,), best in float32, as D and dt_bias: the log of the rate by which a head's state decays.
        D: (heads,), how much of x goes past the scan.
        dt_bias: (heads,), added to dt before its softplus.
        norm_weight: (inner,).
        documents: (batch, tokens) int32, the number of the document that a token belongs to (seq_idx): ids ascend along
            a row, so none comes back; zeros where a row is one document.
        eps: Of the norm, added to the mean of squares.
        keep: Hold for the backward the convolution's output and every 128th state, in bfloat16 2 (inner + 2 state) and
            inner state / 64 bytes a token (33 kB in Bamba-9B), which else are made again, in a tenth of the op's time.
        groups: Of heads; the heads of one, side by side, share their B and C.
        norm_groups: The norm is taken over each of so many equal parts of the channels.
        dt_min: The least time step, behind the softplus; one that was below has no gradient.
        dt_max: The largest one; so for those above.

    Returns:
        (batch, tokens, inner) in the dtype of zxbcdt.

    Raises:
        UserError: For other shapes, dtypes or devices, no tokens, and, where they lie on a CPU, ids that do not ascend.
    """
    small = (one.contiguous() for one in (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents))
    return _quick_mix(  # type: ignore[no-any-return]
        zxbcdt, *small, None, None, None, groups, norm_groups, dt_min, dt_max, eps, keep, False
    )[0]


def mix_carried(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    eps: float,
    entering: Carried | None,
    keep: bool = True,
    groups: int = 1,
    norm_groups: int = 1,
    dt_min: float = 0.0,
    dt_max: float = math.inf,
) -> tuple[Tensor, Carried]:
    """`mix` of a row that may go on from another, and what the next one goes on with: cut anywhere, the pieces of a row
    give what the row gives. Gradients pass through both.

    Args:
        entering: What the row before handed on; None where there is none. Its dtypes: `shapes.Carried`. Ids of
            documents count over all pieces of a row: only tokens of the document that goes on receive anything.
    """
    small = (one.contiguous() for one in (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents))
    before = (None, None, None) if entering is None else tuple(one.contiguous() for one in entering)
    numbers = (groups, norm_groups, dt_min, dt_max, eps)
    out, _, _, _, state = _quick_mix(zxbcdt, *small, *before, *numbers, keep, True)
    inner, heads = len(norm_weight), len(A_log)
    return out, Carried(state, *_last_tokens(unpack(zxbcdt, inner, heads).xbc, documents, entering))


def _last_tokens(xbc: Tensor, documents: Tensor, entering: Carried | None) -> tuple[Tensor, Tensor]:
    """The halo that a row hands on, and its documents: of a short one a part of what it received itself."""
    if (missing := HALO - xbc.shape[1]) <= 0:
        return xbc[:, -HALO:], documents[:, -HALO:]
    if entering is None:
        return pad(xbc, (0, 0, missing, 0)), pad(documents, (missing, 0), value=-1)
    return torch.cat([entering.halo[:, -missing:], xbc], 1), torch.cat([entering.documents[:, -missing:], documents], 1)


def mix_flops(shapes: Sequence[Any]) -> int:
    """From the shapes, and the numbers, of `MixInputs`."""
    shape = dict(zip(MixInputs._fields, shapes, strict=False))
    (inner,), (channels,) = shape["norm_weight"], shape["conv_bias"]
    return scan_flops((*shape["documents"], 1, inner), (channels - inner) // (2 * shape["groups"]))


@register_flop_formula(torch.ops.bamba.mix)
def _(*shapes: Any, **_: Any) -> int:
    return mix_flops(shapes)


@register_flop_formula(torch.ops.bamba.mix_backward)
def _(grad: Any, grad_last: Any, y: Any, convolved: Any, states: Any, *shapes: Any, **_: Any) -> int:
    return 2 * mix_flops(shapes)
