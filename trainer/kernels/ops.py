"""The kernels as torch custom ops: one op, one graph, on a GPU (Triton) and on a CPU (the reference).

    mix(zxbcdt, …)   all of a Mamba2 block between its two linears: conv, silu, scan, gated norm. The model's op: its
                     backward writes the gradient of the packed projection in place, piece by piece, and keeps from
                     the forward its input, the scan's output and, by choice, the convolution's and some states
    scan(x, dt, …)   the SSD scan alone
    swiglu(gate_up)  silu(gate) * up of the MLP; only its backward is a kernel, the compiler joins the forward to others

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
from .shapes import ScanGrads, ScanInputs, kept_states, split_conv, unpack


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
    from . import triton_backend, tuned_launches

    if tensor.is_cuda:
        tuned_launches.ready(tensor.device)
    return triton_backend


# ---- scan


@torch.library.custom_op("bamba::scan", mutates_args=())
def scan(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, A_log: Tensor, D: Tensor, dt_bias: Tensor, documents: Tensor
) -> Tensor:
    """The SSD scan of `ScanInputs`; (batch, tokens, heads, head_dim). What does not lie side by side is copied."""
    check_scan(x, dt, B, C, A_log, D, dt_bias, documents)
    inputs = _laid_out(x, dt, B, C, A_log, D, dt_bias, documents)
    return backend(x, x.shape[-1], B.shape[-1]).scan_forward(inputs)[0]


@scan.register_fake
def _(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, A_log: Tensor, D: Tensor, dt_bias: Tensor, documents: Tensor
) -> Tensor:
    check_scan(x, dt, B, C, A_log, D, dt_bias, documents)
    return x.new_empty(x.shape)


ALIGNED_BYTES = 16  # what a copy engine reads begins at a multiple of them


def _laid_out(*tensors: Tensor) -> ScanInputs:
    """As the kernels read them."""
    dense = (tensor.contiguous() for tensor in tensors)
    return ScanInputs(*(tensor if tensor.data_ptr() % ALIGNED_BYTES == 0 else tensor.clone() for tensor in dense))


@torch.library.custom_op("bamba::scan_backward", mutates_args=())
def scan_backward(
    grad: Tensor,
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    documents: Tensor,
) -> list[Tensor]:
    """Gradients of x, dt, B, C, A_log, D, dt_bias."""
    inputs = _laid_out(x, dt, B, C, A_log, D, dt_bias, documents)
    large = ScanGrads(*(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, dt, B, C)))
    small = backend(x, x.shape[-1], B.shape[-1]).scan_backward(inputs, x.new_empty(0), grad.contiguous(), large)
    return [*large, *_like(small, (A_log, D, dt_bias))]


@scan_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    documents: Tensor,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, dt, B, C, A_log, D, dt_bias)]


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _scan_grads(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.bamba.scan_backward(grad, *ctx.saved_tensors), None)


scan.register_autograd(_scan_grads, setup_context=_save_scan)


# ---- conv + scan + gated norm


def _scan_inputs(
    xbc: Tensor, dt: Tensor, inner: int, A_log: Tensor, D: Tensor, dt_bias: Tensor, documents: Tensor
) -> ScanInputs:
    x, B, C = split_conv(xbc, inner, len(A_log))
    return ScanInputs(x, dt, B, C, A_log, D, dt_bias, documents)


@torch.library.custom_op("bamba::mix", mutates_args=())
def _mix(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_mix(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents)
    inner = len(norm_weight)
    run = backend(zxbcdt, inner // len(A_log), (len(conv_bias) - inner) // 2)
    z, xbc, dt = unpack(zxbcdt, inner, len(A_log))
    mixed = run.conv_forward(xbc, conv_weight, conv_bias, documents)
    scanned, states = run.scan_forward(_scan_inputs(mixed, dt, inner, A_log, D, dt_bias, documents), keep)
    y = scanned.flatten(2)
    return run.norm_forward(y, z, norm_weight, eps), y, mixed if keep else mixed.new_empty(0), states


@_mix.register_fake
def _(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_mix(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents)
    batch, tokens = documents.shape
    out = zxbcdt.new_empty((batch, tokens, len(norm_weight)))
    mixed = zxbcdt.new_empty((batch, tokens, len(conv_bias)) if keep else (0,))
    states = kept_states(out.unflatten(-1, (len(A_log), -1)), (len(conv_bias) - len(norm_weight)) // 2, keep=keep)
    return out, torch.empty_like(out), mixed, states


@torch.library.custom_op("bamba::mix_backward", mutates_args=())
def _mix_backward(
    grad: Tensor,
    y: Tensor,
    mixed: Tensor,
    states: Tensor,
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    eps: float,
) -> list[Tensor]:
    inner, heads = len(norm_weight), len(A_log)
    run = backend(zxbcdt, inner // heads, (len(conv_bias) - inner) // 2)
    z, xbc, dt = unpack(zxbcdt, inner, heads)
    dzxbcdt = torch.empty(zxbcdt.shape, dtype=zxbcdt.dtype, device=zxbcdt.device)
    dz, dxbc, ddt = unpack(dzxbcdt, inner, heads)
    dy, dnorm = run.norm_backward(y, z, norm_weight, eps, grad.contiguous(), dz)
    if not mixed.numel():  # not kept
        mixed = run.conv_forward(xbc, conv_weight, conv_bias, documents)
    inputs = _scan_inputs(mixed, dt, inner, A_log, D, dt_bias, documents)
    dmixed = torch.empty_like(mixed)
    dx, dB, dC = split_conv(dmixed, inner, heads)
    small = run.scan_backward(inputs, states, dy.unflatten(-1, (heads, -1)), ScanGrads(dx, ddt, dB, dC))
    dconv = run.conv_backward(xbc, conv_weight, conv_bias, documents, dmixed, dxbc)
    wanted = (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight)
    return [dzxbcdt, *_like((*dconv, *small, dnorm), wanted)]


@_mix_backward.register_fake
def _(
    grad: Tensor,
    y: Tensor,
    mixed: Tensor,
    states: Tensor,
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    eps: float,
) -> list[Tensor]:
    wanted = (zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight)
    return [t.new_empty(t.shape) for t in wanted]


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
        return (None,) * 10
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

    zxbcdt: (batch, tokens, 2 inner + 2 state + heads), the columns z | x | B | C | dt of the first linear's output,
    the last dimension contiguous; trainer/kernels/supported.py has the sizes that are taken. conv_weight: (inner + 2
    state, 4), conv_bias: (inner + 2 state,), for the channels x | B | C. A_log, D, dt_bias: (heads,), best in float32.
    norm_weight: (inner,). documents: int32 (batch, tokens), the number of the document that a token belongs to
    (seq_idx): ids ascend along a row, so none comes back; zeros where a row is one document. Neither the convolution
    nor the scan passes from one document to the next.
    keep: hold for the backward the convolution's output and every 128th state, in bfloat16 2 (inner + 2 state) and
    inner state / 64 bytes a token (33 kB in Bamba-9B), which else are made again, in a tenth of the op's time.

    Returns (batch, tokens, inner) in the dtype of zxbcdt. Gradients come for all but `documents`, in the dtype of
    their tensors. bfloat16, float32 and float64; sums, decays and states are float32 at least. `UserError` for other
    shapes, dtypes or devices, no tokens, and, where they lie on a CPU, ids that do not ascend.
    """
    small = (one.contiguous() for one in (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents))
    tensors = (zxbcdt, *small)
    return torch.ops.bamba.mix(*tensors, eps, keep)[0]  # type: ignore[no-any-return]


# ---- SwiGLU


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where `gate_up` holds the gate in the first half of its last dimension and up in the second."""
    check_swiglu(gate_up)
    found: Tensor = _SwiGLU.apply(gate_up)
    return found


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        found: Tensor = torch.ops.bamba.swiglu_backward(*ctx.saved_tensors, grad)
        return found


@torch.library.custom_op("bamba::swiglu_backward", mutates_args=())
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


def _mix_flops(documents: Sequence[int], inner: int, channels: int) -> int:
    return _scan_flops((*documents, 1, inner), ((channels - inner) // 2,))


@register_flop_formula(torch.ops.bamba.scan)
def _(x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return _scan_flops(x, B)


@register_flop_formula(torch.ops.bamba.scan_backward)
def _(grad: Any, x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _scan_flops(x, B)


@register_flop_formula(torch.ops.bamba.mix)
def _(zxbcdt: Any, weight: Sequence[int], *rest: Any, **__: Any) -> int:
    norm_weight, documents = rest[4], rest[5]
    return _mix_flops(documents, norm_weight[0], weight[0])


@register_flop_formula(torch.ops.bamba.mix_backward)
def _(grad: Any, y: Any, mixed: Any, states: Any, zxbcdt: Any, weight: Sequence[int], *rest: Any, **__: Any) -> int:
    norm_weight, documents = rest[4], rest[5]
    return 2 * _mix_flops(documents, norm_weight[0], weight[0])
