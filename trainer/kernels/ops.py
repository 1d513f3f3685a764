"""The kernels as torch custom ops: one op, one graph, on a GPU (Triton) and on a CPU (the reference).

    mix(zxbcdt, …)          all of a Mamba2 block between its two linears: conv, silu, scan, gated norm. The model's op:
                            its backward writes the gradient of the packed projection in place, piece by piece, and
                            keeps from the forward its input, the scan's output and, by choice, the convolution's and
                            some states
    mix_carried(zxbcdt, …)  the same for a row that goes on from another: takes and returns what passes between
    step(zxbcdt, …)         the same for one token a row, without gradients, in place: how a text is written
    scan(x, dt, …)          the SSD scan alone, with the state that enters and the one that leaves
    swiglu(gate_up)         silu(gate) * up of the MLP; only its backward is a kernel, the compiler joins the forward to
                            others

The order of an op's arguments is stated once, by the fields of `shapes.MixInputs` and `shapes.ScanInputs`; schemas,
fakes and FLOP formulas are made from them.

With TRITON_INTERPRET=1 the Triton kernels run on a CPU, in Triton's interpreter: that is how the tests reach them.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, silu
from torch.utils.flop_counter import register_flop_formula

from bamba_data.errors import UserError

from . import reference
from .checks import check_mix, check_scan, check_swiglu
from .shapes import (
    MIX_TENSORS,
    SCAN_TENSORS,
    Carried,
    MixInputs,
    ScanGrads,
    ScanInputs,
    border_state,
    kept_states,
    split_conv,
    unpack,
)
from .supported import CONV_WIDTH

# Graphs that somebody exported, and FLOP tables, hold these names.
SCAN, SCAN_BACKWARD = "bamba::scan", "bamba::scan_backward"
MIX, MIX_BACKWARD = "bamba::mix", "bamba::mix_backward"
SWIGLU_BACKWARD = "bamba::swiglu_backward"
ALIGNED_BYTES = 16  # what a copy engine reads begins at a multiple of them


class Backend(Protocol):
    """One implementation of the mathematics: `reference`, or the Triton kernels."""

    def conv_forward(self, xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor) -> Tensor: ...

    def conv_backward(
        self, xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor, grad: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def norm_forward(self, y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor: ...

    def norm_backward(
        self, y: Tensor, z: Tensor, weight: Tensor, eps: float, grad: Tensor, out_z: Tensor, groups: int
    ) -> tuple[Tensor, Tensor]: ...

    def scan_forward(
        self, inputs: ScanInputs, keep: bool = False, hand_on: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def scan_backward(
        self,
        inputs: ScanInputs,
        kept: Tensor,
        grad: Tensor,
        out: ScanGrads,
        grad_last: Tensor | None = None,
        out_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def passing(self, inputs: ScanInputs, grad: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    def step(self, given: MixInputs, eps: float) -> Tensor: ...

    def swiglu_backward(self, gate_up: Tensor, grad: Tensor) -> Tensor: ...


def backend(tensor: Tensor, head_dim: int = 64, state: int = 64) -> Backend:
    """Triton where the tensor is on a GPU or the interpreter is asked for; else the reference.

    The reference also takes float64, and on a GPU float32 with narrow heads or states, as only toy models have them:
    Triton 3.6 compiles such tiles to reads beyond the shared memory.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if tensor.dtype == torch.float64 or not (tensor.is_cuda or interpreted):
        return reference
    if tensor.is_cuda and tensor.dtype == torch.float32 and min(head_dim, state) < 32:
        return reference
    # Not at the top: a machine without Triton trains by the reference.
    from . import triton_backend, tuned_launches

    if tensor.is_cuda:
        tuned_launches.ready(tensor.device)
    return triton_backend


def _tensors(names: Sequence[str]) -> str:
    """A part of an op's schema; torch infers one from a signature only where that spells every tensor again."""
    return ", ".join(f"Tensor {name}" for name in names)


def _placed(found: Sequence[Tensor], inputs: int) -> list[Tensor | None]:
    """Gradients where an op's inputs stand: of its seven parameters and large tensors, then of what entered."""
    first, entered = found[:7], found[7:]
    missing = inputs - len(first) - 1 - len(entered)
    return [*first, None, *entered, *[None] * missing]  # documents have none


# ---- scan

_SCAN = f"{_tensors(SCAN_TENSORS)}, Tensor? state_in, Tensor? document_in"


@torch.library.custom_op(SCAN, mutates_args=(), schema=f"({_SCAN}, bool hand_on) -> (Tensor, Tensor)")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, hand_on = arguments
    check_scan(ScanInputs(*given))
    inputs = _laid_out(ScanInputs(*given))
    y, _, last = backend(inputs.x, inputs.x.shape[-1], inputs.B.shape[-1]).scan_forward(inputs, hand_on=hand_on)
    return y, last


@_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, hand_on = arguments
    check_scan(inputs := ScanInputs(*given))
    return inputs.x.new_empty(inputs.x.shape), border_state(inputs.x, inputs.B.shape[-1], wanted=hand_on)


def _laid_out(given: ScanInputs) -> ScanInputs:
    """As the kernels read them."""

    def aligned(tensor: Tensor) -> Tensor:
        dense = tensor.contiguous()
        return dense if dense.data_ptr() % ALIGNED_BYTES == 0 else dense.clone()

    tensors, entering = given[: len(SCAN_TENSORS)], given[len(SCAN_TENSORS) :]
    return ScanInputs(
        *(aligned(t) for t in tensors if t is not None), *(t if t is None else aligned(t) for t in entering)
    )


@torch.library.custom_op(
    SCAN_BACKWARD, mutates_args=(), schema=f"(Tensor grad, Tensor? grad_last, {_SCAN}) -> Tensor[]"
)
def _scan_backward(grad: Tensor, grad_last: Tensor | None, *given: Any) -> list[Tensor]:
    """Gradients of x, dt, B, C, A_log, D, dt_bias, and of the state that entered, if one did."""
    inputs = _laid_out(ScanInputs(*given))
    large = ScanGrads(*(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in given[: len(ScanGrads._fields)]))
    state = None if inputs.state_in is None else torch.empty_like(inputs.state_in)
    last = None if grad_last is None else grad_last.contiguous()
    run = backend(inputs.x, inputs.x.shape[-1], inputs.B.shape[-1])
    small = run.scan_backward(inputs, inputs.x.new_empty(0), grad.contiguous(), large, last, state)
    return [*large, *_like(small, (inputs.A_log, inputs.D, inputs.dt_bias)), *([] if state is None else [state])]


@_scan_backward.register_fake
def _(grad: Tensor, grad_last: Tensor | None, *given: Any) -> list[Tensor]:
    inputs = ScanInputs(*given)
    entered = [] if inputs.state_in is None else [inputs.state_in]
    return [tensor.new_empty(tensor.shape) for tensor in (*given[: len(SCAN_TENSORS) - 1], *entered)]


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, ctx.hand_on = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], *given)


def _scan_grads(ctx: Any, grad: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    y, *given = ctx.saved_tensors
    grad_last = grad_last if ctx.hand_on else None
    if grad is None and grad_last is None:  # nobody asked for what the outputs were made of
        return (None,) * (len(given) + 1)
    found = torch.ops.bamba.scan_backward(torch.zeros_like(y) if grad is None else grad, grad_last, *given)
    return (*_placed(found, len(given)), None)


_scan.register_autograd(_scan_grads, setup_context=_save_scan)


def scan(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    documents: Tensor,
    state_in: Tensor | None = None,
    document_in: Tensor | None = None,
    hand_on: bool = False,
) -> tuple[Tensor, Tensor]:
    """The SSD scan: h_t = exp(A dt_t) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t (arXiv 2405.21060, section 6).

    Shapes and dtypes are those of `shapes.ScanInputs`, A = -exp(A_log) and dt passes through softplus with its bias.
    What does not lie side by side in memory is copied.

    Args:
        state_in: The state before the first token, (batch, heads, head_dim, state) in float32, or float64 with float64.
        document_in: (batch,) int32, the document that state is of: only its tokens receive it.
        hand_on: Return the state after the last token, which is that token's document's.

    Returns:
        y, (batch, tokens, heads, head_dim) in the dtype of x; and the last state, empty unless `hand_on`.

    Raises:
        UserError: For shapes, dtypes or devices that there is no kernel for, and for documents that do not ascend.
    """
    found: tuple[Tensor, Tensor] = torch.ops.bamba.scan(
        x, dt, B, C, A_log, D, dt_bias, documents, state_in, document_in, hand_on
    )
    return found


# ---- conv + scan + gated norm

_ENTERING = "Tensor? state_in, Tensor? halo_in, Tensor? documents_in"
_MIX = f"{_tensors(MIX_TENSORS)}, {_ENTERING}, int groups, int norm_groups, float eps"


def _scan_inputs(xbc: Tensor, dt: Tensor, given: MixInputs) -> ScanInputs:
    x, B, C = split_conv(xbc, given.inner, given.heads, given.groups)
    document = None if given.documents_in is None else given.documents_in[:, -1].contiguous()
    return ScanInputs(x, dt, B, C, given.A_log, given.D, given.dt_bias, given.documents, given.state_in, document)


def _first_row(xbc: Tensor, given: MixInputs, entering: Carried) -> tuple[Tensor, Tensor]:
    """The halo and the first tokens as a row of their own: x | B | C, and the documents."""
    first = CONV_WIDTH - 1
    ids = torch.cat([entering.documents, given.documents[:, :first]], 1)
    return torch.cat([entering.halo, xbc[:, :first]], 1), ids


def _convolved(run: Backend, xbc: Tensor, given: MixInputs) -> Tensor:
    """The convolution's output; where a row goes on from another, the first tokens' is made anew with the halo."""
    convolved = run.conv_forward(xbc, given.conv_weight, given.conv_bias, given.documents)
    if (entering := given.entering) is not None:
        row, ids = _first_row(xbc, given, entering)
        first = run.conv_forward(row, given.conv_weight, given.conv_bias, ids)
        convolved[:, : CONV_WIDTH - 1] = first[:, CONV_WIDTH - 1 :]
    return convolved


@torch.library.custom_op(
    MIX,
    mutates_args=(),
    schema=f"({_MIX}, bool keep, bool hand_on) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _mix(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output; for the backward the scan's output, the convolution's and the states (empty unless `keep`); and the
    last state (empty unless `hand_on`)."""
    *inputs, eps, keep, hand_on = arguments
    check_mix(given := MixInputs(*inputs))
    run = backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, given.inner, given.heads)
    convolved = _convolved(run, xbc, given)
    scanned, states, last = run.scan_forward(_scan_inputs(convolved, dt, given), keep, hand_on)
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
    schema=f"(Tensor grad, Tensor? grad_last, Tensor y, Tensor mixed, Tensor states, {_MIX}) -> Tensor[]",
)
def _mix_backward(
    grad: Tensor, grad_last: Tensor | None, y: Tensor, convolved: Tensor, states: Tensor, *arguments: Any
) -> list[Tensor]:
    """Gradients of `MIX_TENSORS` but the documents, in their order; and of state and halo that entered, if they did."""
    *inputs, eps = arguments
    given = MixInputs(*inputs)
    inner, heads, first = given.inner, given.heads, CONV_WIDTH - 1
    run = backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, inner, heads)
    # One tensor for the gradients of z, x|B|C and dt: each kernel writes its columns, and nothing is concatenated.
    dzxbcdt = torch.empty(given.zxbcdt.shape, dtype=given.zxbcdt.dtype, device=given.zxbcdt.device)
    dz, dxbc, ddt = unpack(dzxbcdt, inner, heads)
    dy, dnorm = run.norm_backward(y, z, given.norm_weight, eps, grad.contiguous(), dz, given.norm_groups)
    if not convolved.numel():  # not kept
        convolved = _convolved(run, xbc, given)
    dconvolved = torch.empty_like(convolved)
    large = ScanGrads(*_scan_places(dconvolved, ddt, given))
    entering = given.entering
    dstate = None if entering is None else torch.empty_like(entering.state)
    last = None if grad_last is None else grad_last.contiguous()
    of_scan = _scan_inputs(convolved, dt, given)
    small = run.scan_backward(of_scan, states, dy.unflatten(-1, (heads, -1)), large, last, dstate)
    if entering is None or dstate is None:
        dconv = run.conv_backward(xbc, given.conv_weight, given.conv_bias, given.documents, dconvolved, dxbc)
        return [dzxbcdt, *_like((*dconv, *small, dnorm), inputs[1:7])]
    # The first tokens' outputs were those of a row of their own: so is their gradient, and the row's is without them.
    row, ids = _first_row(xbc, given, entering)
    drow = torch.zeros_like(row)
    drow[:, first:] = dconvolved[:, :first]
    dconvolved[:, :first] = 0
    dfirst = torch.empty_like(row)
    of_first = run.conv_backward(row, given.conv_weight, given.conv_bias, ids, drow, dfirst)
    of_rest = run.conv_backward(xbc, given.conv_weight, given.conv_bias, given.documents, dconvolved, dxbc)
    dxbc[:, :first] += dfirst[:, first:]
    dconv = (of_first[0] + of_rest[0], of_first[1] + of_rest[1])
    return [dzxbcdt, *_like((*dconv, *small, dnorm), inputs[1:7]), dstate, dfirst[:, :first].contiguous()]


def _scan_places(dconvolved: Tensor, ddt: Tensor, given: MixInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dB, dC = split_conv(dconvolved, given.inner, given.heads, given.groups)
    return dx, ddt, dB, dC


@_mix_backward.register_fake
def _(grad: Tensor, grad_last: Any, y: Tensor, convolved: Tensor, states: Tensor, *arguments: Any) -> list[Tensor]:
    *inputs, _ = arguments
    entering = MixInputs(*inputs).entering
    entered = () if entering is None else entering[:2]
    return [tensor.new_empty(tensor.shape) for tensor in (*inputs[: len(MIX_TENSORS) - 1], *entered)]


def _like(grads: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the dtype of their parameters, each in memory of its own: outputs of an op must not share any."""
    pairs = zip(grads, parameters, strict=True)
    return [torch.empty(p.shape, dtype=p.dtype, device=p.device).copy_(g) for g, p in pairs]


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *given, ctx.groups, ctx.norm_groups, ctx.eps, _, ctx.hand_on = inputs
    ctx.set_materialize_grads(False)  # no zeros for y, which only the backward uses
    ctx.save_for_backward(*output[1:4], *given)


def _mix_grads(ctx: Any, grad: Tensor | None, *more: Tensor | None) -> tuple[Tensor | None, ...]:
    y, convolved, states, *given = ctx.saved_tensors
    grad_last = more[-1] if ctx.hand_on else None
    if grad is None and grad_last is None:  # nobody asked for what the outputs were made of
        return (None,) * (len(given) + 5)
    found = torch.ops.bamba.mix_backward(
        torch.zeros_like(y) if grad is None else grad,
        *(grad_last, y, convolved, states, *given, ctx.groups, ctx.norm_groups, ctx.eps),
    )
    return (*_placed(found, len(given)), None, None, None, None, None)


_mix.register_autograd(_mix_grads, setup_context=_save_mix)


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

    Returns:
        (batch, tokens, inner) in the dtype of zxbcdt.

    Raises:
        UserError: For other shapes, dtypes or devices, no tokens, and, where they lie on a CPU, ids that do not ascend.
    """
    small = (one.contiguous() for one in (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents))
    return torch.ops.bamba.mix(  # type: ignore[no-any-return]
        zxbcdt, *small, None, None, None, groups, norm_groups, eps, keep, False
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
) -> tuple[Tensor, Carried]:
    """`mix` of a row that may go on from another, and what the next one goes on with: cut anywhere, the pieces of a row
    give what the row gives. Gradients pass through both.

    Args:
        entering: What the row before handed on; None where there is none. Its dtypes: `shapes.Carried`. Ids of
            documents count over all pieces of a row: only tokens of the document that goes on receive anything.
    """
    small = (one.contiguous() for one in (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents))
    before = (None, None, None) if entering is None else tuple(one.contiguous() for one in entering)
    out, _, _, _, state = torch.ops.bamba.mix(zxbcdt, *small, *before, groups, norm_groups, eps, keep, True)
    inner, heads = len(norm_weight), len(A_log)
    return out, Carried(state, *_last_tokens(unpack(zxbcdt, inner, heads).xbc, documents, entering))


def _last_tokens(xbc: Tensor, documents: Tensor, entering: Carried | None) -> tuple[Tensor, Tensor]:
    """The halo that a row hands on, and its documents: of a short one a part of what it received itself."""
    halo = CONV_WIDTH - 1
    if (missing := halo - xbc.shape[1]) <= 0:
        return xbc[:, -halo:], documents[:, -halo:]
    if entering is None:
        return pad(xbc, (0, 0, missing, 0)), pad(documents, (missing, 0), value=-1)
    return torch.cat([entering.halo[:, -missing:], xbc], 1), torch.cat([entering.documents[:, -missing:], documents], 1)


# ---- one token


@torch.no_grad()
def step(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    carried: Carried,
    eps: float,
    groups: int = 1,
    norm_groups: int = 1,
) -> Tensor:
    """`mix_carried` of rows of one token that all go on; `carried.state` and `.halo` are changed in place.

    Where a halo's token is not of the document that goes on, its channels are zeros: nobody looks at documents here.

    Returns:
        (batch, 1, inner) in the dtype of zxbcdt.
    """
    small = (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, carried.documents[:, -1:])
    given = MixInputs(zxbcdt, *small, *carried, groups, norm_groups)
    check_mix(given)
    if zxbcdt.shape[1] != 1:
        raise UserError(f"step: {zxbcdt.shape[1]} tokens a row: one is taken")
    return backend(zxbcdt, given.head_dim, given.state).step(given, eps)


# ---- SwiGLU


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202), of (…, 2 width): the gate in the first half of the last dimension, up in the
    second."""
    check_swiglu(gate_up)
    out: Tensor = _SwiGLU.apply(gate_up)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out: Tensor = torch.ops.bamba.swiglu_backward(*ctx.saved_tensors, grad)
        return out


@torch.library.custom_op(SWIGLU_BACKWARD, mutates_args=())
def swiglu_backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `gate_up` from that of its `swiglu`."""
    return backend(grad).swiglu_backward(gate_up.contiguous(), grad.contiguous())


@swiglu_backward.register_fake
def _(gate_up: Tensor, grad: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


# ---- what counts as work


def _scan_flops(x: Sequence[int], state: int) -> int:
    """5 state head_dim heads a token: what the recurrence costs, whatever the chunks; the convolution is no product."""
    batch, tokens, heads, head_dim = x
    return 5 * state * head_dim * heads * tokens * batch


def _mix_flops(shapes: Sequence[Any]) -> int:
    """From the shapes, and the numbers, of `MixInputs`."""
    shape = dict(zip(MixInputs._fields, shapes, strict=False))
    (inner,), (channels,) = shape["norm_weight"], shape["conv_bias"]
    return _scan_flops((*shape["documents"], 1, inner), (channels - inner) // (2 * shape["groups"]))


@register_flop_formula(torch.ops.bamba.scan)
def _(x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return _scan_flops(x, B[-1])


@register_flop_formula(torch.ops.bamba.scan_backward)
def _(grad: Any, grad_last: Any, x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _scan_flops(x, B[-1])


@register_flop_formula(torch.ops.bamba.mix)
def _(*shapes: Any, **_: Any) -> int:
    return _mix_flops(shapes)


@register_flop_formula(torch.ops.bamba.mix_backward)
def _(grad: Any, grad_last: Any, y: Any, convolved: Any, states: Any, *shapes: Any, **_: Any) -> int:
    return 2 * _mix_flops(shapes)
