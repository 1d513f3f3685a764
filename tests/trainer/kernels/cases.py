"""Inputs for the kernels, and the recurrence that they must compute: one token after the other, in float64."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu, softplus

from trainer.kernels import ops

EPS = 1e-5
#: A GPU gets Bamba's own tiles, the interpreter the smallest that a kernel takes.
TILES: dict[str, int] = {"head_dim": 64, "state": 128} if torch.cuda.is_available() else {"head_dim": 16, "state": 16}


class Case(NamedTuple):
    """What `ops.mix` takes, in its order."""

    zxbcdt: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    norm_weight: Tensor
    documents: Tensor
    groups: int = 1
    norm_groups: int = 1
    dt_min: float = 0.0
    dt_max: float = math.inf

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that have a gradient."""
        return self[:7]

    def float(self) -> "Case":
        """The same in float32."""
        return self.to(torch.float32)

    def to(self, dtype: torch.dtype) -> "Case":
        """The large input in `dtype`, the parameters in float32, or in float64 where that is asked for."""
        small = torch.float64 if dtype == torch.float64 else torch.float32
        return self._made(self.zxbcdt.to(dtype), *(t.to(small) for t in self.tensors[1:]))

    def leaves(self) -> "Case":
        """A copy whose float tensors collect gradients."""
        return self._made(*(t.detach().clone().requires_grad_() for t in self.tensors))

    def _made(self, *tensors: Tensor) -> "Case":
        return Case(*tensors, *self[7:])  # type: ignore[arg-type]

    def mixed(self, keep: bool = True) -> Tensor:
        """The op's output."""
        return ops.mix(*self[:8], EPS, keep, *self[8:])

    def loss(self, out: Tensor) -> Tensor:
        """A scalar with a different, fixed weight on every element of the output."""
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).sin().view(out.shape).to(out.device)
        return (out.double() * weights * 3).sum()


#: Of the inputs that have a gradient.
NAMES = Case._fields[:7]


def rows_of_documents(batch: int, tokens: int, starts: list[list[int]]) -> Tensor:
    """(batch, tokens) ascending int32 ids; a new document begins at each of a row's `starts`."""
    documents = torch.zeros(batch, tokens, dtype=torch.int32)
    for row, places in zip(documents, starts, strict=True):
        for place in places:
            row[place:] += 1
    return documents


def draw(
    documents: Tensor,
    *,
    heads: int = 2,
    head_dim: int = 16,
    state: int = 16,
    rates: tuple[float, float] = (1.0, 16.0),
    steps: tuple[float, float] = (1e-3, 1e-1),
    groups: int = 1,
    norm_groups: int = 1,
    dt_min: float = 0.0,
    dt_max: float = math.inf,
    seed: int = 0,
) -> Case:
    """Random inputs in float64; decay rates and steps from the ranges that a new model draws them from."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float64)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(heads, generator=make, dtype=torch.float64)

    inner = heads * head_dim
    step = between(*(float(torch.tensor(s, dtype=torch.float64).log()) for s in steps)).exp()
    return Case(
        zxbcdt=normal(*documents.shape, 2 * inner + 2 * groups * state + heads),
        conv_weight=normal(inner + 2 * groups * state, 4) / 2,
        conv_bias=normal(inner + 2 * groups * state) / 2,
        A_log=between(*rates).log(),
        D=1 + normal(heads) / 4,
        dt_bias=step + torch.log(-torch.expm1(-step)),
        norm_weight=1 + normal(inner) / 4,
        documents=documents,
        groups=groups,
        norm_groups=norm_groups,
        dt_min=dt_min,
        dt_max=dt_max,
    )


def recurrence(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    documents: Tensor,
    limits: tuple[float, float] = (0.0, math.inf),
) -> Tensor:
    """The definition of the scan, token by token; B and C by group."""
    batch, tokens, heads, width = x.shape
    B, C = (of_group.repeat_interleave(heads // B.shape[2], 2) for of_group in (B, C))
    step = softplus(dt + dt_bias).clamp(*limits)
    state = x.new_zeros(batch, heads, width, B.shape[-1])
    out = []
    for t in range(tokens):
        stays = documents[:, t] == documents[:, max(t - 1, 0)]
        kept = torch.where(stays[:, None], (-A_log.exp() * step[:, t]).exp(), 0)
        added = torch.einsum("bh,bhp,bhn->bhpn", step[:, t], x[:, t], B[:, t])
        state = kept[..., None, None] * state + added
        out.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]) + D[:, None] * x[:, t])
    return torch.stack(out, 1)


def definition(case: Case) -> Tensor:
    """All of `ops.mix` from its definition, in the case's own precision."""
    heads, inner = len(case.A_log), len(case.norm_weight)
    both = (len(case.conv_bias) - inner) // 2
    z, xbc, dt = case.zxbcdt.split([inner, inner + 2 * both, heads], -1)
    taps = []
    for t in range(xbc.shape[1]):
        total = case.conv_bias.expand(xbc.shape[0], -1)
        for tap in range(4):
            source = t - 3 + tap
            if source >= 0:
                same = case.documents[:, source] == case.documents[:, t]
                total = total + torch.where(same[:, None], xbc[:, source] * case.conv_weight[:, tap], 0)
        taps.append(total)
    x, B, C = silu(torch.stack(taps, 1)).split([inner, both, both], -1)
    B, C = B.unflatten(-1, (case.groups, -1)), C.unflatten(-1, (case.groups, -1))
    small, limits = (case.A_log, case.D, case.dt_bias, case.documents), (case.dt_min, case.dt_max)
    y = recurrence(x.unflatten(-1, (heads, -1)), dt, B, C, *small, limits).flatten(2)
    gated = (y * silu(z)).unflatten(-1, (case.norm_groups, -1))
    return rms_norm(gated, (inner // case.norm_groups,), None, EPS).flatten(-2) * case.norm_weight


def gradients(case: Case, out: Tensor) -> dict[str, Tensor]:
    """Of the case's loss, by name."""
    return dict(zip(NAMES, torch.autograd.grad(case.loss(out), case.tensors), strict=True))


def relative(got: Tensor, wanted: Tensor) -> float:
    """The norm of the difference, in that of what is wanted."""
    return float((got.detach() - wanted.detach()).norm() / wanted.detach().norm().clamp(min=1e-300))


def on(case: Case, device: torch.device) -> Case:
    """The case, moved."""
    return Case(*(t.to(device) for t in case[:8]), *case[8:])


def results(case: Case, keep: bool = True) -> dict[str, Tensor]:
    """The output of `ops.mix` and every gradient."""
    leaves = case.leaves()
    out = leaves.mixed(keep)
    return {"out": out.detach(), **gradients(leaves, out)}
