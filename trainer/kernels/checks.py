"""What is given to the Mamba2 ops is what they take, or it is refused by name before a kernel reads beyond it.

Shapes, strides, dtypes and devices are known without asking the device. That documents ascend is seen only where their
numbers lie on the host: a CPU here, and the trainer's batches before they leave it (trainer/data/batch.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bamba_data.errors import UserError

from .supported import CONV_WIDTH, DTYPES, unsupported


def check_mix(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    documents: Tensor,
) -> None:
    """`UserError` naming the tensor, what it is and what it must be."""
    for name, vector in (("conv_bias", conv_bias), ("A_log", A_log), ("norm_weight", norm_weight)):
        _rank("mix", name, vector, 1)
    _rank("mix", "zxbcdt", zxbcdt, 3)
    batch, tokens, width = zxbcdt.shape
    inner, heads, channels = norm_weight.shape[0], A_log.shape[0], conv_bias.shape[0]
    if not heads or inner % heads:
        raise UserError(f"mix: norm_weight has {inner} channels, which {heads} heads (A_log) do not divide")
    if channels <= inner or (channels - inner) % 2:
        raise UserError(f"mix: conv_bias has {channels} channels, not {inner} (norm_weight) and twice a state")
    _block("mix", inner // heads, (channels - inner) // 2, heads, zxbcdt)
    wanted = {
        "zxbcdt": (zxbcdt, (batch, tokens, inner + channels + heads)),
        "conv_weight": (conv_weight, (channels, CONV_WIDTH)),
        "D": (D, (heads,)),
        "dt_bias": (dt_bias, (heads,)),
    }
    if width != inner + channels + heads:
        parts = f"z {inner} | x, B and C {channels} | dt {heads}"
        raise UserError(f"mix: zxbcdt is {width} wide, not {inner + channels + heads}: {parts}")
    for name, (tensor, shape) in wanted.items():
        _shape("mix", name, tensor, shape)
    given = dict(zip(_MIX, (zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight), strict=True))
    _alike("mix", given, documents)
    _tokens("mix", batch, tokens, documents)
    for name, tensor in given.items():
        _side_by_side("mix", name, tensor, rows=name != "zxbcdt")


def check_scan(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, A_log: Tensor, D: Tensor, dt_bias: Tensor, documents: Tensor
) -> None:
    """`UserError` naming the tensor, what it is and what it must be. Strides are the op's matter: it copies."""
    _rank("scan", "x", x, 4)
    _rank("scan", "B", B, 3)
    batch, tokens, heads, head_dim = x.shape
    state = B.shape[-1]
    _block("scan", head_dim, state, heads, x)
    tensors = (x, dt, B, C, A_log, D, dt_bias)
    shapes: tuple[Sequence[int], ...] = (x.shape, x.shape[:3], (batch, tokens, state), (batch, tokens, state))
    for name, tensor, shape in zip(_SCAN, tensors, (*shapes, (heads,), (heads,), (heads,)), strict=True):
        _shape("scan", name, tensor, shape)
    _alike("scan", dict(zip(_SCAN, tensors, strict=True)), documents)
    for name, tensor in (("B", B), ("C", C)):
        if tensor.dtype != x.dtype:
            raise UserError(f"scan: {name} is {tensor.dtype}, x is {x.dtype}: their products take one dtype")
    _tokens("scan", batch, tokens, documents)


def check_swiglu(gate_up: Tensor) -> None:
    """`UserError` where there are no two halves."""
    if not gate_up.dim() or not gate_up.shape[-1] or gate_up.shape[-1] % 2 or not gate_up.numel():
        raise UserError(f"swiglu: {tuple(gate_up.shape)} holds no gate and up of equal width in its last dimension")


def check_documents(documents: Tensor, where: str) -> None:
    """`UserError` where ids descend along a row of (rows, tokens): a document would come back, and the state of another
    be taken for its own. For tensors on the host."""
    falls = documents[:, 1:] < documents[:, :-1]
    if bool(falls.any()):
        row, token = (int(one) for one in falls.nonzero()[0])
        before, after = documents[row, token].item(), documents[row, token + 1].item()
        raise UserError(
            f"{where}: document ids must ascend along a row; in row {row} token {token} has {before} and the next one "
            f"{after}. Number the documents of each row from left to right"
        )


_MIX = ("zxbcdt", "conv_weight", "conv_bias", "A_log", "D", "dt_bias", "norm_weight")
_SCAN = ("x", "dt", "B", "C", "A_log", "D", "dt_bias")
_DTYPES = tuple(getattr(torch, name) for name in DTYPES)


def _rank(op: str, name: str, tensor: Tensor, dimensions: int) -> None:
    if tensor.dim() != dimensions:
        raise UserError(f"{op}: {name} has the shape {tuple(tensor.shape)}, {dimensions} dimensions are due")


def _shape(op: str, name: str, tensor: Tensor, wanted: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(wanted):
        raise UserError(f"{op}: {name} has the shape {tuple(tensor.shape)}, {tuple(wanted)} is due")


def _block(op: str, head_dim: int, state: int, heads: int, of: Tensor) -> None:
    dtype = str(of.dtype).removeprefix("torch.") if of.is_cuda else "bfloat16"  # a CPU computes either in plain torch
    if why := unsupported(head_dim, state, heads, dtype):
        raise UserError(f"{op}: {why}")


def _alike(op: str, tensors: dict[str, Tensor], documents: Tensor) -> None:
    """All on one device, all of a dtype that kernels are written for."""
    first = next(iter(tensors.values())).device
    for name, tensor in (*tensors.items(), ("documents", documents)):
        if tensor.device != first:
            raise UserError(f"{op}: {name} is on {tensor.device}, {next(iter(tensors))} on {first}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise UserError(f"{op}: {name} is {tensor.dtype}, {', '.join(DTYPES)} are taken")
    if documents.dtype != torch.int32:
        raise UserError(f"{op}: documents are {documents.dtype}, int32 is due: documents.int()")


def _tokens(op: str, batch: int, tokens: int, documents: Tensor) -> None:
    """There are some, each has its document, and where that can be seen no document comes back."""
    if not batch or not tokens:
        raise UserError(f"{op}: {batch} rows of {tokens} tokens: nothing to compute")
    _shape(op, "documents", documents, (batch, tokens))
    if type(documents) is Tensor and documents.device.type == "cpu":
        check_documents(documents, op)


def _side_by_side(op: str, name: str, tensor: Tensor, *, rows: bool) -> None:
    """What a kernel reads by one pointer: the last dimension of a large tensor, all of a parameter."""
    if rows and not tensor.is_contiguous():
        raise UserError(f"{op}: {name} does not lie side by side in memory (strides {tensor.stride()}): .contiguous()")
    if not rows and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise UserError(f"{op}: {name}'s last dimension has the stride {tensor.stride(-1)}, 1 is due: .contiguous()")
