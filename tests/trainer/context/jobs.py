"""Work of one rank on its part of rows; see `ranks.computed`."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.trainer.context.ranks import Found, part
from tests.trainer.kernels.cases import EPS, NAMES, Case
from trainer.context.gather_op import gather_tokens
from trainer.context.mix_op import mix_context
from trainer.distributed.fsdp import World


def before(documents: Tensor, world: World) -> Tensor:
    """Documents of the three tokens before this part."""
    tokens = documents.shape[1] // world.context.ranks
    return pad(documents, (3, 0), value=-1)[:, world.context.rank * tokens :][:, :3]


def mixes(world: World, cases: list[list[object]], keep: bool) -> Found:
    """Outputs and gradients of mix_context, by case; of the loss of `Case.loss`, of which each rank has its part."""
    found = {}
    for number, tensors in enumerate(cases):
        case = Case(*tensors)  # type: ignore[arg-type]
        weights = torch.linspace(-1, 1, len(case.norm_weight) * case.documents.numel(), dtype=torch.float64).sin()
        weights = part(weights.view(*case.documents.shape, -1), world) * 3
        leaves = [t.detach().clone().requires_grad_() for t in (part(case.zxbcdt, world).contiguous(), *case[1:7])]
        given = (*leaves, part(case.documents, world), before(case.documents, world))
        out = mix_context(*given, EPS, world.context, keep, case.groups, case.norm_groups)
        grads = torch.autograd.grad((out.double() * weights).sum(), leaves)
        found |= {f"{number}.out": out.detach()}
        found |= {f"{number}.{name}": grad for name, grad in zip(NAMES, grads, strict=True)}
    return found


def gathers(world: World, rows: Tensor, weights: Tensor) -> Found:
    """The whole rows made of this rank's part, and the part's gradient; each rank weighs all tokens in its own way."""
    mine = part(rows, world).clone().requires_grad_()
    whole = gather_tokens(mine, world.context)
    (grad,) = torch.autograd.grad((whole * weights[world.rank]).sum(), mine)
    return {"whole": whole.detach(), "grad": grad}
