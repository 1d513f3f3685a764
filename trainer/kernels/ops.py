"""The kernels as torch custom ops: one op, one graph, on a GPU (Triton) and on a CPU (the reference).

    mix(zxbcdt, …)   all of a Mamba2 block between its two linears: conv, silu, scan, gated norm. The model's op: its
                     backward writes the gradient of the packed projection in place, piece by piece, and keeps from
                     the forward its input, the scan's output and, by choice, the convolution's and some states
    scan(x, dt, …)   the SSD scan alone
    swiglu(gate_up)  silu(gate) * up of the MLP; only its backward is a kernel, the compiler joins the forward to others

The order of an op's tensors is stated once, by the fields of `shapes.MixInputs` and `shapes.ScanInputs`; schemas, fakes
and FLOP formulas are made from them.

With TRITON_INTERPRET=1 the Triton kernels run on a CPU, in Triton's interpreter: that is how the tests reach them.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.flop_counter import register_flop_formula

from . import reference
from .checks import check_mix, check_scan, check_swiglu
from .shapes import MixInputs, ScanGrads, ScanInputs, kept_states, split_conv, unpack

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

    def norm_forward(self, y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor: ...

    def norm_backward(
        self, y: Tensor, z: Tensor, weight: Tensor, eps: float, grad: Tensor, out_z: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def scan_forward(self, inputs: ScanInputs, keep: bool = False) -> tuple[Tensor, Tensor]: ...

    def scan_backward(
        self, inputs: ScanInputs, kept: Tensor, grad: Tensor, out: ScanGrads
    ) -> tuple[Tensor, Tensor, Tensor]: ...

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


def _schema(tensors: Sequence[str], returns: str, rest: str = "") -> str:
    """An op's schema; torch infers one from a signature only where that spells every tensor again."""
    return f"({', '.join(f'Tensor {name}' for name in tensors)}{rest}) -> {returns}"


# ---- scan


@torch.library.custom_op(SCAN, mutates_args=())
def scan(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, A_log: Tensor, D: Tensor, dt_bias: Tensor, documents: Tensor
) -> Tensor:
    """The SSD scan: h_t = exp(A dt_t) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t (arXiv 2405.21060, section 6).

    Shapes and dtypes are those of `shapes.ScanInputs`, A = -exp(A_log) and dt passes through softplus with its bias.
    What does not lie side by side in memory is copied.

    Returns:
        y, (batch, tokens, heads, head_dim) in the dtype of x.

    Raises:
        UserError: For shapes, dtypes or devices that there is no kernel for, and for documents that do not ascend.
    """
    check_scan(ScanInputs(x, dt, B, C, A_log, D, dt_bias, documents))
    inputs = _laid_out(x, dt, B, C, A_log, D, dt_bias, documents)
    return backend(x, x.shape[-1], B.shape[-1]).scan_forward(inputs)[0]


@scan.register_fake
def _(*tensors: Tensor) -> Tensor:
    check_scan(inputs := ScanInputs(*tensors))
    return inputs.x.new_empty(inputs.x.shape)


def _laid_out(*tensors: Tensor) -> ScanInputs:
    """As the kernels read them."""
    dense = (tensor.contiguous() for tensor in tensors)
    return ScanInputs(*(tensor if tensor.data_ptr() % ALIGNED_BYTES == 0 else tensor.clone() for tensor in dense))


@torch.library.custom_op(SCAN_BACKWARD, mutates_args=(), schema=_schema(("grad", *ScanInputs._fields), "Tensor[]"))
def scan_backward(grad: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Gradients of x, dt, B, C, A_log, D, dt_bias from that of y; `tensors` are those of `ScanInputs`."""
    inputs = _laid_out(*tensors)
    large = ScanGrads(
        *(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors[: len(ScanGrads._fields)])
    )
    run = backend(inputs.x, inputs.x.shape[-1], inputs.B.shape[-1])
    small = run.scan_backward(inputs, inputs.x.new_empty(0), grad.contiguous(), large)
    return [*large, *_like(small, (inputs.A_log, inputs.D, inputs.dt_bias))]


@scan_backward.register_fake
def _(grad: Tensor, *tensors: Tensor) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in tensors[:-1]]


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _scan_grads(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.bamba.scan_backward(grad, *ctx.saved_tensors), None)


scan.register_autograd(_scan_grads, setup_context=_save_scan)


# ---- conv + scan + gated norm


def _scan_inputs(xbc: Tensor, dt: Tensor, given: MixInputs) -> ScanInputs:
    x, B, C = split_conv(xbc, given.inner, given.heads)
    return ScanInputs(x, dt, B, C, given.A_log, given.D, given.dt_bias, given.documents)


@torch.library.custom_op(
    MIX,
    mutates_args=(),
    schema=_schema(MixInputs._fields, "(Tensor, Tensor, Tensor, Tensor)", ", float eps, bool keep"),
)
def _mix(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and for the backward the scan's output, the convolution's and the states (empty unless `keep`)."""
    *tensors, eps, keep = arguments
    check_mix(given := MixInputs(*tensors))
    run = backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, given.inner, given.heads)
    convolved = run.conv_forward(xbc, given.conv_weight, given.conv_bias, given.documents)
    scanned, states = run.scan_forward(_scan_inputs(convolved, dt, given), keep)
    y = scanned.flatten(2)
    out = run.norm_forward(y, z, given.norm_weight, eps)
    return out, y, convolved if keep else convolved.new_empty(0), states


@_mix.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *tensors, _, keep = arguments
    check_mix(given := MixInputs(*tensors))
    out = given.zxbcdt.new_empty((*given.documents.shape, given.inner))
    convolved = given.zxbcdt.new_empty((*given.documents.shape, given.channels) if keep else (0,))
    states = kept_states(out.unflatten(-1, (given.heads, -1)), given.state, keep=keep)
    return out, torch.empty_like(out), convolved, states


@torch.library.custom_op(
    MIX_BACKWARD,
    mutates_args=(),
    schema=_schema(("grad", "y", "mixed", "states", *MixInputs._fields), "Tensor[]", ", float eps"),
)
def _mix_backward(grad: Tensor, y: Tensor, convolved: Tensor, states: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of all of `MixInputs` but the documents, in their order."""
    *tensors, eps = arguments
    given = MixInputs(*tensors)
    inner, heads = given.inner, given.heads
    run = backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, inner, heads)
    # One tensor for the gradients of z, x|B|C and dt: each kernel writes its columns, and nothing is concatenated.
    dzxbcdt = torch.empty(given.zxbcdt.shape, dtype=given.zxbcdt.dtype, device=given.zxbcdt.device)
    dz, dxbc, ddt = unpack(dzxbcdt, inner, heads)
    dy, dnorm = run.norm_backward(y, z, given.norm_weight, eps, grad.contiguous(), dz)
    if not convolved.numel():  # not kept
        convolved = run.conv_forward(xbc, given.conv_weight, given.conv_bias, given.documents)
    dconvolved = torch.empty_like(convolved)
    dx, dB, dC = split_conv(dconvolved, inner, heads)
    of_scan = _scan_inputs(convolved, dt, given)
    small = run.scan_backward(of_scan, states, dy.unflatten(-1, (heads, -1)), ScanGrads(dx, ddt, dB, dC))
    dconv = run.conv_backward(xbc, given.conv_weight, given.conv_bias, given.documents, dconvolved, dxbc)
    return [dzxbcdt, *_like((*dconv, *small, dnorm), given[1:-1])]


@_mix_backward.register_fake
def _(grad: Tensor, y: Tensor, convolved: Tensor, states: Tensor, *arguments: Any) -> list[Tensor]:
    *differentiable, _, _ = arguments  # but the documents and eps
    return [tensor.new_empty(tensor.shape) for tensor in differentiable]


def _like(grads: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the dtype of their parameters, each in memory of its own: outputs of an op must not share any."""
    pairs = zip(grads, parameters, strict=True)
    return [torch.empty(p.shape, dtype=p.dtype, device=p.device).copy_(g) for g, p in pairs]


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps, _ = inputs
    ctx.set_materialize_grads(False)  # no zeros for y, which only the backward uses
    ctx.save_for_backward(*output[1:], *tensors)


def _mix_grads(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:  # nobody asked for what the output was made of
        return (None,) * (len(MixInputs._fields) + 2)
    return (*torch.ops.bamba.mix_backward(grad, *ctx.saved_tensors, ctx.eps), None, None, None)


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
) -> Tensor:
    """All of a Mamba2 block between its two linears: norm(scan(silu(conv(x|B|C)), dt) * silu(z)).

    The block of the Mamba-2 paper (arXiv 2405.21060, section 7.1: parallel projections, the norm behind the gate), with
    one group, and with documents apart: neither the convolution nor the scan passes from one document to the next.
    Gradients come for all but `documents`, in the dtype of their tensors. Sums, decays and states are float32 at least.

    Args:
        zxbcdt: (batch, tokens, 2 inner + 2 state + heads), bfloat16, float32 or float64: the columns z | x | B | C | dt
            of the first linear's output, the last dimension contiguous. `supported` has the sizes that are taken.
        conv_weight: (inner + 2 state, 4), for the channels x | B | C.
        conv_bias: (inner + 2 state,).
        A_log: (heads,), best in float32, as D and dt_bias: the log of the rate by which a head's state decays.
        D: (heads,), how much of x goes past the scan.
        dt_bias: (heads,), added to dt before its softplus.
        norm_weight: (inner,).
        documents: (batch, tokens) int32, the number of the document that a token belongs to (seq_idx): ids ascend along
            a row, so none comes back; zeros where a row is one document.
        eps: Of the norm, added to the mean of squares.
        keep: Hold for the backward the convolution's output and every 128th state, in bfloat16 2 (inner + 2 state) and
            inner state / 64 bytes a token (33 kB in Bamba-9B), which else are made again, in a tenth of the op's time.

    Returns:
        (batch, tokens, inner) in the dtype of zxbcdt.

    Raises:
        UserError: For other shapes, dtypes or devices, no tokens, and, where they lie on a CPU, ids that do not ascend.
    """
    small = (one.contiguous() for one in (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents))
    return torch.ops.bamba.mix(zxbcdt, *small, eps, keep)[0]  # type: ignore[no-any-return]


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


def _scan_flops(x: Sequence[int], B: Sequence[int]) -> int:
    """5 state head_dim heads a token: what the recurrence costs, whatever the chunks; the convolution is no product."""
    batch, tokens, heads, head_dim = x
    return 5 * B[-1] * head_dim * heads * tokens * batch


def _mix_flops(shapes: Sequence[Any]) -> int:
    """From the shapes of `MixInputs`."""
    shape = dict(zip(MixInputs._fields, shapes, strict=False))
    (inner,), (channels,) = shape["norm_weight"], shape["conv_bias"]
    return _scan_flops((*shape["documents"], 1, inner), ((channels - inner) // 2,))


@register_flop_formula(torch.ops.bamba.scan)
def _(x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return _scan_flops(x, B)


@register_flop_formula(torch.ops.bamba.scan_backward)
def _(grad: Any, x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _scan_flops(x, B)


@register_flop_formula(torch.ops.bamba.mix)
def _(*shapes: Any, **_: Any) -> int:
    return _mix_flops(shapes)


@register_flop_formula(torch.ops.bamba.mix_backward)
def _(grad: Any, y: Any, convolved: Any, states: Any, *shapes: Any, **_: Any) -> int:
    return 2 * _mix_flops(shapes)
