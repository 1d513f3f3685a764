"""Work of one rank on its part of rows; see `ranks.computed`."""

import warnings

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad

from tests.trainer.context.ranks import Found, part
from tests.trainer.kernels.cases import EPS, NAMES, Case
from tests.trainer.small import CONFIG, model
from trainer.config import Compute
from trainer.context.gather_op import gather_tokens
from trainer.context.mix_op import mix_context
from trainer.distributed.fsdp import World, distribute
from trainer.model.bamba import Bamba
from trainer.model.init_weights import init_weights
from trainer.optim.gradient_sync import GradientSync


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
        out = mix_context(*given, EPS, world.context, keep, *case[8:])
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


def learned(world: World, rows: list[Tensor], compiled: bool, ways: list[str]) -> Found:
    """Loss, losses a token and gradients of a small hybrid on this rank's part, after each way to recompute; of
    gradients the sums over all ranks. And how many graphs were made, and how often one broke."""
    plain = torch.compile
    warnings.simplefilter("default")  # the compiler warns itself
    # generating machine code takes minutes on a CPU
    torch.compile = lambda work, **rest: plain(work, backend="aot_eager", **rest)  # type: ignore[assignment]
    found = {}
    for way in ways:
        torch._dynamo.reset()
        counters.clear()
        with torch.device("meta"):
            made = Bamba(CONFIG, chunk_tokens=48)
        compute = Compute(dtype="float32", compile=compiled, recompute=way)  # type: ignore[arg-type]
        distribute(made, compute, world)
        init_weights(made, CONFIG, 7)
        sync = GradientSync(made, compute, world, low_memory=False)
        sync.before_backward(last=True)
        ids, documents, positions, labels = (part(one, world) for one in rows)
        total, losses = made.losses(ids, documents, positions, labels)
        total.backward()
        sync.finish()
        for name, parameter in made.named_parameters():
            grad = parameter.grad
            assert grad is not None
            found[f"{way}.{name}"] = grad.full_tensor() if isinstance(grad, DTensor) else grad
        found |= {f"{way}/losses": losses, f"{way}/graphs": torch.tensor(counters["stats"]["unique_graphs"])}
        found[f"{way}/breaks"] = torch.tensor(sum(counters["graph_break"].values()))
    return found


@torch.no_grad()
def losses(world: World, given: list[list[Tensor]]) -> Found:
    """Losses a token on this rank's part, of each of several batches."""
    whole = model()
    whole.context = world.context
    return {str(number): whole.losses(*(part(one, world) for one in rows))[1] for number, rows in enumerate(given)}
