"""What is given to the Mamba2 ops is what they take, or it is refused by name before a kernel reads beyond it.

Shapes, strides, dtypes and devices are known without asking the device. That documents ascend is seen only where their
numbers lie on the host: a CPU here, and the trainer's batches before they leave it (trainer/data/batch.py).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bamba_data.errors import UserError

from .shapes import MIX_TENSORS, SCAN_TENSORS, MixInputs, ScanInputs, wide_dtype
from .supported import CONV_WIDTH, DTYPES, INNER_MAX, unsupported

_DTYPES = tuple(getattr(torch, name) for name in DTYPES)


def check_mix(given: MixInputs) -> None:
    """Raises `UserError` naming the tensor, what it is and what it must be."""
    for name in ("conv_bias", "A_log", "norm_weight"):  # sizes are read off these
        _check_dimensions("mix", name, getattr(given, name), 1)
    _check_dimensions("mix", "zxbcdt", given.zxbcdt, 3)
    batch, tokens, width = given.zxbcdt.shape
    inner, heads, channels, groups = given.inner, given.heads, given.channels, given.groups
    if not heads or inner % heads:
        raise UserError(f"mix: norm_weight has {inner} channels, which {heads} heads (A_log) do not divide")
    _check_groups("mix", groups, heads)
    if given.norm_groups < 1 or inner % given.norm_groups:
        raise UserError(f"mix: norm_groups: {given.norm_groups} do not divide {inner} channels")
    if channels <= inner or (channels - inner) % (2 * groups):
        twice = "twice a state" if groups == 1 else f"twice {groups} states"
        raise UserError(f"mix: conv_bias has {channels} channels, not {inner} (norm_weight) and {twice}")
    _check_supported("mix", given.head_dim, given.state, heads, given.zxbcdt)
    if width != inner + channels + heads:
        parts = f"z {inner} | x, B and C {channels} | dt {heads}"
        raise UserError(f"mix: zxbcdt is {width} wide, not {inner + channels + heads}: {parts}")
    for name, shape in {"conv_weight": (channels, CONV_WIDTH), "D": (heads,), "dt_bias": (heads,)}.items():
        _check_shape("mix", name, getattr(given, name), shape)
    tensors = {name: getattr(given, name) for name in MIX_TENSORS}
    _check_devices_and_dtypes("mix", tensors)
    _check_tokens("mix", batch, tokens, given.documents)
    for name in MIX_TENSORS[:-1]:
        _check_strides("mix", name, tensors[name], whole=name != "zxbcdt")
    _check_limits("mix", given.dt_min, given.dt_max)
    if (entering := given.entering) is not None:
        _check_state("mix", entering.state, (batch, heads, given.head_dim, given.state), given.zxbcdt)
        _check_entering("mix", "halo_in", entering.halo, (batch, CONV_WIDTH - 1, channels), given.zxbcdt.dtype)
        _check_entering("mix", "documents_in", entering.documents, (batch, CONV_WIDTH - 1), torch.int32)
        _check_order("mix", entering.documents, given.documents)
    elif any(one is not None for one in (given.state_in, given.halo_in, given.documents_in)):
        raise UserError("mix: a state, a halo and their documents enter together, or none of them does")


def check_scan(given: ScanInputs) -> None:
    """Raises `UserError` naming the tensor, what it is and what it must be. Strides are the op's matter: it copies."""
    _check_dimensions("scan", "x", given.x, 4)
    _check_dimensions("scan", "B", given.B, 4)
    batch, tokens, heads, head_dim = given.x.shape
    groups, state = given.B.shape[2:]
    _check_groups("scan", groups, heads)
    _check_supported("scan", head_dim, state, heads, given.x)
    of_state, of_heads = (batch, tokens, groups, state), (heads,)
    shapes = (given.x.shape, given.x.shape[:3], of_state, of_state, of_heads, of_heads, of_heads)
    tensors = {name: getattr(given, name) for name in SCAN_TENSORS}
    for (name, tensor), shape in zip(tensors.items(), shapes, strict=False):
        _check_shape("scan", name, tensor, shape)
    _check_devices_and_dtypes("scan", tensors)
    for name, tensor in (("B", given.B), ("C", given.C)):
        if tensor.dtype != given.x.dtype:
            raise UserError(f"scan: {name} is {tensor.dtype}, x is {given.x.dtype}: their products take one dtype")
    _check_tokens("scan", batch, tokens, given.documents)
    _check_limits("scan", given.dt_min, given.dt_max)
    if (given.state_in is None) != (given.document_in is None):
        raise UserError("scan: a state and its document enter together, or neither does")
    if given.state_in is not None and given.document_in is not None:
        _check_state("scan", given.state_in, (batch, heads, head_dim, state), given.x)
        _check_entering("scan", "document_in", given.document_in, (batch,), torch.int32)
        _check_order("scan", given.document_in[:, None], given.documents)


def check_swiglu(gate_up: Tensor) -> None:
    """Raises `UserError` where there are no two halves."""
    if not gate_up.dim() or not gate_up.shape[-1] or gate_up.shape[-1] % 2 or not gate_up.numel():
        raise UserError(f"swiglu: {tuple(gate_up.shape)} holds no gate and up of equal width in its last dimension")


def check_residual_norm(x: Tensor, branch: Tensor, weight: Tensor) -> None:
    """Raises `UserError` where the sum would not be of x's shape and dtype, or the norm not of its rows."""
    op = "residual_norm"
    if not x.dim() or not x.numel():
        raise UserError(f"{op}: x has the shape {tuple(x.shape)}: nothing to compute")
    if x.shape[-1] > INNER_MAX:
        raise UserError(f"{op}: x is {x.shape[-1]:,} wide: {INNER_MAX:,} at most lie in one program's registers")
    _check_shape(op, "branch", branch, x.shape)
    _check_shape(op, "weight", weight, x.shape[-1:])
    for name, tensor in (("branch", branch), ("weight", weight)):
        if tensor.device != x.device:
            raise UserError(f"{op}: {name} is on {tensor.device}, x on {x.device}")
    if torch.promote_types(x.dtype, branch.dtype) != x.dtype:
        raise UserError(f"{op}: branch is {branch.dtype}, x {x.dtype}: the sum would be kept with fewer digits")
    _check_strides(op, "weight", weight, whole=True)


def check_documents(documents: Tensor, where: str) -> None:
    """For tensors on the host, (rows, tokens).

    Raises:
        UserError: Where ids descend along a row: a document would come back, and the state of another be taken for its
            own.
    """
    falls = documents[:, 1:] < documents[:, :-1]
    if bool(falls.any()):
        row, token = (int(index) for index in falls.nonzero()[0])
        before, after = documents[row, token].item(), documents[row, token + 1].item()
        raise UserError(
            f"{where}: document ids must ascend along a row; in row {row} token {token} has {before} and the next one "
            f"{after}. Number the documents of each row from left to right"
        )


def _check_dimensions(op: str, name: str, tensor: Tensor, dimensions: int) -> None:
    if tensor.dim() != dimensions:
        raise UserError(f"{op}: {name} has the shape {tuple(tensor.shape)}: {dimensions} dimensions are expected")


def _check_shape(op: str, name: str, tensor: Tensor, wanted: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(wanted):
        raise UserError(f"{op}: {name} has the shape {tuple(tensor.shape)}, not {tuple(wanted)}")


def _check_groups(op: str, groups: int, heads: int) -> None:
    if groups < 1 or heads % groups:
        raise UserError(f"{op}: {groups} groups do not divide {heads} heads")


def _check_limits(op: str, least: float, largest: float) -> None:
    if not 0 <= least <= largest or largest == 0:
        raise UserError(f"{op}: dt_min {least:g} and dt_max {largest:g} are no limits of steps, which are above 0")


def _check_state(op: str, state: Tensor, shape: Sequence[int], of: Tensor) -> None:
    _check_entering(op, "state_in", state, shape, wide_dtype(of))


def _check_entering(op: str, name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """What a row goes on with is as the row before handed it on."""
    _check_shape(op, name, tensor, shape)
    if tensor.dtype != dtype:
        raise UserError(f"{op}: {name} is {tensor.dtype}, not {dtype}")
    _check_strides(op, name, tensor, whole=True)


def _check_order(op: str, before: Tensor, documents: Tensor) -> None:
    """Ids go on ascending from one row to the next, where that can be seen."""
    if _on_host(documents) and _on_host(before):
        check_documents(torch.cat([before, documents], 1), f"{op}: with what entered")


def _on_host(tensor: Tensor) -> bool:
    """Its numbers can be read at once; not a fake tensor's, which has a device and no numbers."""
    return type(tensor) is Tensor and tensor.device.type == "cpu"


def _check_supported(op: str, head_dim: int, state: int, heads: int, of: Tensor) -> None:
    dtype = str(of.dtype).removeprefix("torch.") if of.is_cuda else "bfloat16"  # a CPU computes either in plain torch
    if why := unsupported(head_dim, state, heads, dtype):
        raise UserError(f"{op}: {why}")


def _check_devices_and_dtypes(op: str, given: Mapping[str, Tensor]) -> None:
    """All on one device, all of a dtype that kernels are written for; documents come last, in int32."""
    named = list(given.items())
    (first_name, first), *_ = named
    for name, tensor in named:
        if tensor.device != first.device:
            raise UserError(f"{op}: {name} is on {tensor.device}, {first_name} on {first.device}")
    for name, tensor in named[:-1]:
        if tensor.dtype not in _DTYPES:
            raise UserError(f"{op}: {name} is {tensor.dtype}, {', '.join(DTYPES)} are taken")
    if (dtype := given["documents"].dtype) != torch.int32:
        raise UserError(f"{op}: documents are {dtype}, not int32: pass documents.int()")


def _check_tokens(op: str, batch: int, tokens: int, documents: Tensor) -> None:
    """There are some, each has its document, and where that can be seen no document comes back."""
    if not batch or not tokens:
        raise UserError(f"{op}: {batch} rows of {tokens} tokens: nothing to compute")
    _check_shape(op, "documents", documents, (batch, tokens))
    if _on_host(documents):
        check_documents(documents, op)


def _check_strides(op: str, name: str, tensor: Tensor, *, whole: bool) -> None:
    """What a kernel reads by one pointer: the last dimension of a large tensor, all of a parameter."""
    if whole and not tensor.is_contiguous():
        raise UserError(
            f"{op}: {name} is not contiguous in memory (strides {tensor.stride()}): pass {name}.contiguous()"
        )
    if not whole and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise UserError(
            f"{op}: {name}'s last dimension has the stride {tensor.stride(-1)}, not 1: pass {name}.contiguous()"
        )
