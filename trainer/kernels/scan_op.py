"""`bamba::scan`: the SSD scan alone, with the state that enters and the one that leaves."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import backends
from .checks import check_scan
from .op_arguments import gradients_of_inputs, quick, tensor_arguments
from .shapes import SCAN_TENSORS, ScanGrads, ScanInputs, border_state

# Graphs that somebody exported, and FLOP tables, hold these names.
SCAN, SCAN_BACKWARD = "bamba::scan", "bamba::scan_backward"
ALIGNED_BYTES = 16  # what a copy engine reads begins at a multiple of them
_INPUTS = f"{tensor_arguments(SCAN_TENSORS)}, Tensor? state_in, Tensor? document_in, float dt_min, float dt_max"


@torch.library.custom_op(SCAN, mutates_args=(), schema=f"({_INPUTS}, bool hand_on) -> (Tensor, Tensor)")
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, hand_on = arguments
    check_scan(ScanInputs(*given))
    inputs = _laid_out(ScanInputs(*given))
    y, _, last = backends.backend(inputs.x, inputs.x.shape[-1], inputs.B.shape[-1]).scan_forward(
        inputs, hand_on=hand_on
    )
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

    tensors = {name: aligned(one) for name, one in given._asdict().items() if isinstance(one, Tensor)}
    return given._replace(**tensors)  # type: ignore[arg-type]  # by name, those that are tensors


@torch.library.custom_op(
    SCAN_BACKWARD, mutates_args=(), schema=f"(Tensor grad, Tensor? grad_last, {_INPUTS}) -> Tensor[]"
)
def _scan_backward(grad: Tensor, grad_last: Tensor | None, *given: Any) -> list[Tensor]:
    """Gradients of x, dt, B, C, A_log, D, dt_bias, and of the state that entered, if one did."""
    inputs = _laid_out(ScanInputs(*given))
    large = ScanGrads(*(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in given[: len(ScanGrads._fields)]))
    state = None if inputs.state_in is None else torch.empty_like(inputs.state_in)
    last = None if grad_last is None else grad_last.contiguous()
    run = backends.backend(inputs.x, inputs.x.shape[-1], inputs.B.shape[-1])
    of_heads = run.scan_backward(inputs, inputs.x.new_empty(0), grad.contiguous(), large, last, state)
    small = run.column_sums((inputs.A_log, inputs.D, inputs.dt_bias), of_heads)
    return [*large, *small, *([] if state is None else [state])]


@_scan_backward.register_fake
def _(grad: Tensor, grad_last: Tensor | None, *given: Any) -> list[Tensor]:
    inputs = ScanInputs(*given)
    entered = [] if inputs.state_in is None else [inputs.state_in]
    return [tensor.new_empty(tensor.shape) for tensor in (*given[: len(SCAN_TENSORS) - 1], *entered)]


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, ctx.dt_min, ctx.dt_max, ctx.hand_on = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], *given)


def _scan_grads(ctx: Any, grad: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    y, *given = ctx.saved_tensors
    grad_last = grad_last if ctx.hand_on else None
    if grad is None and grad_last is None:  # nobody asked for what the outputs were made of
        return (None,) * (len(given) + 3)
    grad = torch.zeros_like(y) if grad is None else grad
    found = torch.ops.bamba.scan_backward(grad, grad_last, *given, ctx.dt_min, ctx.dt_max)
    return (*gradients_of_inputs(found, len(given)), None, None, None)


_scan.register_autograd(_scan_grads, setup_context=_save_scan)
_quick_scan = quick(torch.ops.bamba.scan.default, _save_scan, _scan_grads)


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
    dt_min: float = 0.0,
    dt_max: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """The SSD scan: h_t = exp(A dt_t) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t (arXiv 2405.21060, section 6).

    Shapes and dtypes are those of `shapes.ScanInputs`, A = -exp(A_log) and dt passes through softplus with its bias.
    What does not lie side by side in memory is copied.

    Args:
        state_in: The state before the first token, (batch, heads, head_dim, state) in float32, or float64 with float64.
        document_in: (batch,) int32, the document that state is of: only its tokens receive it.
        hand_on: Return the state after the last token, which is that token's document's.
        dt_min: The least time step, behind the softplus; one that was below has no gradient.
        dt_max: The largest one; so for those above.

    Returns:
        y, (batch, tokens, heads, head_dim) in the dtype of x; and the last state, empty unless `hand_on`.

    Raises:
        UserError: For shapes, dtypes or devices that there is no kernel for, and for documents that do not ascend.
    """
    found: tuple[Tensor, Tensor] = _quick_scan(
        x, dt, B, C, A_log, D, dt_bias, documents, state_in, document_in, dt_min, dt_max, hand_on
    )
    return found


def scan_flops(x: Sequence[int], state: int) -> int:
    """5 state head_dim heads a token: what the recurrence costs, whatever the chunks; the convolution is no product."""
    batch, tokens, heads, head_dim = x
    return 5 * state * head_dim * heads * tokens * batch


@register_flop_formula(torch.ops.bamba.scan)
def _(x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return scan_flops(x, B[-1])


@register_flop_formula(torch.ops.bamba.scan_backward)
def _(grad: Any, grad_last: Any, x: Sequence[int], dt: Any, B: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * scan_flops(x, B[-1])
