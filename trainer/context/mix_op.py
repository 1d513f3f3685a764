"""`bamba::mix_context`: `bamba::mix` of a part of each row, on every rank of a context group at once.

What must pass from part to part is small: before the convolution the last three tokens, x | B | C; in the scan one
state a head (Bamba-9B: 4 MB a row and layer). States pass without waiting for each other: from its own tokens alone a
part knows what it adds to a state that passes over it, and how much of it it lets through (`Backend.passing`). Those
summaries make the state that enters each part:

    state <- passed_k state + added_k        over the parts k to the left

The scan is linear in the state, so that is exact. A gradient passes likewise, from right to left. Where a document ends
in a part, `passed` is zero: documents stay apart to the bit, across a cut as within a part.

The method is the chunk recurrence of the Mamba-2 paper over ranks instead of chunks (arXiv 2405.21060, section 8.2,
"Sequence parallelism").
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.flop_counter import register_flop_formula

from bamba_data.errors import UserError

from ..kernels import backends
from ..kernels.checks import check_mix
from ..kernels.conv_halo import HALO, first_gradients, go_on
from ..kernels.mix_op import mix_flops, scan_inputs
from ..kernels.op_arguments import tensor_arguments
from ..kernels.shapes import MIX_TENSORS, MixInputs, ScanGrads, border_state, kept_states, split_conv, unpack
from .exchange import Arriving, Dealt
from .group import ContextGroup

# Graphs that somebody exported, and FLOP tables, hold these names.
MIX, MIX_BACKWARD = "bamba::mix_context", "bamba::mix_context_backward"
_TENSORS = tensor_arguments((*MIX_TENSORS, "documents_in"))
_NUMBERS = "int groups, int norm_groups, float dt_min, float dt_max, float eps"
_INPUTS = f"{_TENSORS}, {_NUMBERS}, str name, int rank, int ranks"
_TAKEN = len(MIX_TENSORS)


def _unpacked(arguments: tuple[Any, ...]) -> tuple[MixInputs, float, ContextGroup]:
    documents_in, groups, norm_groups, dt_min, dt_max, eps, *group = arguments[_TAKEN:]
    given = MixInputs(*arguments[:_TAKEN])
    given = given._replace(documents_in=documents_in, groups=groups, norm_groups=norm_groups)
    given = given._replace(dt_min=dt_min, dt_max=dt_max)
    return given, eps, ContextGroup(*group)


def _check(given: MixInputs) -> None:
    """Raises UserError as `mix`; and where a part is shorter than what its neighbour must know of it."""
    check_mix(given._replace(documents_in=None))
    assert given.documents_in is not None
    batch, tokens, _ = given.zxbcdt.shape
    if tokens < HALO:
        raise UserError(f"mix_context: parts of {tokens} tokens: the convolution reaches back over {HALO}")
    if given.documents_in.shape != (batch, HALO) or given.documents_in.dtype != torch.int32:
        found = f"{tuple(given.documents_in.shape)} {given.documents_in.dtype}"
        raise UserError(f"mix_context: documents_in is {found}, not {(batch, HALO)} torch.int32")


class _Summaries:
    """What every part makes of a state that passes over it, dealt to the ranks by heads: each gets all parts' of its
    share of the heads, makes the state that meets each part, and sends it there. So a rank sends and gets two states,
    however many parts there are."""

    def __init__(self, added: Tensor, passed: Tensor, group: ContextGroup) -> None:
        self._shape, self._group = added.shape, group
        self._heads = passed.numel()  # of all rows
        table = torch.cat([added.view(self._heads, -1), passed.view(self._heads, 1)], 1)
        table = pad(table, (0, 0, 0, -self._heads % group.ranks))
        self._arriving = Dealt(torch.unflatten(table, 0, (group.ranks, -1)), group)

    def _met_here(self, order: Iterable[int]) -> Tensor:
        """The state that meets this rank's part where one passes over the parts in this order."""
        of_parts = self._arriving.wait()
        added, passed = of_parts[..., :-1], of_parts[..., -1:]
        met = torch.empty_like(added)
        state = torch.zeros_like(added[0])
        for part in order:
            met[part] = state
            state = torch.addcmul(added[part], passed[part], state)
        by_share = Dealt(met, self._group).wait()
        return by_share.flatten(0, 1)[: self._heads].view(self._shape)

    def from_left(self) -> Tensor:
        """The state that enters this rank's part."""
        return self._met_here(range(self._group.ranks))

    def from_right(self) -> Tensor:
        """Of gradients: that of the state which leaves this rank's part."""
        return self._met_here(reversed(range(self._group.ranks)))


def _left_halo(arrived: Tensor, group: ContextGroup) -> Tensor:
    """The left neighbour's last tokens; before the first part there is nothing."""
    return arrived[group.rank - 1] if group.rank else torch.zeros_like(arrived[0])


@torch.library.custom_op(
    MIX, mutates_args=(), schema=f"({_INPUTS}, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _mix(*arguments: Any) -> tuple[Tensor, ...]:
    """The output; for the backward the scan's output, the convolution's and the states (empty unless `keep`), and what
    entered: state and halo."""
    *inputs, keep = arguments
    given, eps, group = _unpacked(tuple(inputs))
    _check(given)
    assert given.documents_in is not None
    run = backends.backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, given.inner, given.heads)
    last_tokens = Arriving(xbc[:, -HALO:], group)
    convolved = run.conv_forward(xbc, given.conv_weight, given.conv_bias, given.documents)
    halo = _left_halo(last_tokens.wait(), group)
    go_on(run, convolved, xbc, given, halo)
    of_scan = scan_inputs(convolved, dt, given)
    state = _Summaries(*run.passing(of_scan), group).from_left()
    scanned, states, _ = run.scan_forward(of_scan._replace(state_in=state), keep)
    y = scanned.flatten(2)
    out = run.norm_forward(y, z, given.norm_weight, eps, given.norm_groups)
    return out, y, convolved if keep else convolved.new_empty(0), states, state.contiguous(), halo.clone()


@_mix.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    *inputs, keep = arguments
    given, _, _ = _unpacked(tuple(inputs))
    _check(given)
    rows = given.documents.shape
    out = given.zxbcdt.new_empty((*rows, given.inner))
    x = torch.unflatten(out, -1, (given.heads, -1))
    convolved = given.zxbcdt.new_empty((*rows, given.channels) if keep else (0,))
    halo = given.zxbcdt.new_empty((rows[0], HALO, given.channels))
    states = kept_states(x, given.state, keep=keep)
    return out, torch.empty_like(out), convolved, states, border_state(x, given.state), halo


@torch.library.custom_op(
    MIX_BACKWARD,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor y, Tensor mixed, Tensor states, Tensor state_in, Tensor halo, {_INPUTS}) -> Tensor[]",
)
def _mix_backward(
    grad: Tensor, y: Tensor, convolved: Tensor, states: Tensor, state: Tensor, halo: Tensor, *arguments: Any
) -> list[Tensor]:
    """Gradients of `MIX_TENSORS` but the documents, in their order."""
    given, eps, group = _unpacked(arguments)
    assert given.documents_in is not None
    inner, heads = given.inner, given.heads
    run = backends.backend(given.zxbcdt, given.head_dim, given.state)
    z, xbc, dt = unpack(given.zxbcdt, inner, heads)
    dzxbcdt = torch.empty(given.zxbcdt.shape, dtype=given.zxbcdt.dtype, device=given.zxbcdt.device)
    dz, dxbc, ddt = unpack(dzxbcdt, inner, heads)
    dy, of_norm = run.norm_backward(y, z, given.norm_weight, eps, grad.contiguous(), dz, given.norm_groups)
    if not convolved.numel():  # not kept
        convolved = run.conv_forward(xbc, given.conv_weight, given.conv_bias, given.documents)
        go_on(run, convolved, xbc, given, halo)
    of_scan = scan_inputs(convolved, dt, given)._replace(state_in=state)
    dscanned = torch.unflatten(dy, -1, (heads, -1))
    from_right: Callable[[], Tensor] = _Summaries(*run.passing(of_scan, dscanned), group).from_right
    dconvolved = torch.empty_like(convolved)
    dx, dB, dC = split_conv(dconvolved, inner, heads, given.groups)
    of_heads = run.scan_backward(of_scan, states, dscanned, ScanGrads(dx, ddt, dB, dC), from_right)
    dfirst, of_first = first_gradients(run, xbc, given, halo, dconvolved)
    dhalos = Arriving(dfirst[:, :HALO], group)
    of_conv = run.conv_backward(xbc, given.conv_weight, given.conv_bias, given.documents, dconvolved, dxbc)
    dxbc[:, :HALO] += dfirst[:, HALO:]
    of_all = dhalos.wait()
    if group.rank + 1 < group.ranks:
        dxbc[:, -HALO:] += of_all[group.rank + 1]
    of_conv[: len(of_first)] += of_first
    return [dzxbcdt, *run.column_sums(arguments[1 : _TAKEN - 1], of_heads, of_conv, of_norm)]


@_mix_backward.register_fake
def _(grad: Tensor, y: Tensor, convolved: Tensor, states: Tensor, state: Tensor, halo: Tensor, *arguments: Any) -> Any:
    return [tensor.new_empty(tensor.shape) for tensor in arguments[: _TAKEN - 1]]


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.others = inputs[: _TAKEN + 1], inputs[_TAKEN + 1 : -1]
    ctx.set_materialize_grads(False)  # no zeros for y, which only the backward uses
    ctx.save_for_backward(*output[1:], *tensors)


def _mix_grads(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    y, *rest = ctx.saved_tensors
    # Also where nobody here asked: other ranks wait for what this part hands to them.
    found = torch.ops.bamba.mix_context_backward(torch.zeros_like(y) if grad is None else grad, y, *rest, *ctx.others)
    return (*found, None, None, *[None] * len(ctx.others), None)


_mix.register_autograd(_mix_grads, setup_context=_save_mix)


def mix_context(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
    documents_in: Tensor,
    eps: float,
    group: ContextGroup,
    keep: bool = True,
    groups: int = 1,
    norm_groups: int = 1,
    dt_min: float = 0.0,
    dt_max: float = math.inf,
) -> Tensor:
    """`kernels.ops.mix` of this rank's part of rows that the ranks of `group` hold together; so are its gradients: the
    parts end to end are what `mix` gives for the whole rows, to rounding. A collective call, forward and backward.

    Args:
        documents: (batch, tokens) int32, of this part, numbered over the whole row.
        documents_in: (batch, 3) int32, of the three tokens before this part; -1 before the first.
        group: This rank among those that hold the rows. Parts have equally many tokens, three at least.

    Raises:
        UserError: As `mix`, and for parts that are too short.
    """
    small = (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, documents, documents_in)
    given = (zxbcdt, *(one.contiguous() for one in small), groups, norm_groups, dt_min, dt_max, eps, *group)
    return torch.ops.bamba.mix_context(*given, keep)[0]  # type: ignore[no-any-return]


@register_flop_formula(torch.ops.bamba.mix_context)
def _(*shapes: Any, **_: Any) -> int:
    return _flops(shapes)


@register_flop_formula(torch.ops.bamba.mix_context_backward)
def _(grad: Any, y: Any, convolved: Any, states: Any, state: Any, halo: Any, *shapes: Any, **_: Any) -> int:
    return 2 * _flops(shapes)


def _flops(shapes: tuple[Any, ...]) -> int:
    """Of the part; what passes between ranks is not counted."""
    tensors, (_, groups, *_) = shapes[:_TAKEN], shapes[_TAKEN:]
    return mix_flops((*tensors, None, None, None, groups))
