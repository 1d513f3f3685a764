"""AdamW on what a rank updates: one fused call, clipping included, left undone where the gradient is not finite.

The method is Loshchilov and Hutter's (arXiv 1711.05101): weight decay apart from the gradient, moments corrected for
their start at zero. Nothing here waits for the device: the norm, the factor that clips and the verdict on the gradient
stay there. State is two moments a parameter and one count of updates, kept as the parameters are, so that a checkpoint
can move them to any number of ranks. Parameters in bfloat16 (`memory: low`) have moments in bfloat16 and go through
`stochastic_rounding`.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from ..config import Optimizer
from ..distributed.fsdp import World, local, shard_mesh
from ..distributed.row_exchange import norms
from ..distributed.row_shares import own_rows, zero_moments
from ..model.bamba import vector_parameters
from . import stochastic_rounding

#: What a rank updates of a weight, its gradient and its two moments.
Shards = tuple[Tensor, Tensor, Tensor, Tensor]


class AdamW:
    """Moments for every parameter of `model`, which is sharded already."""

    def __init__(self, model: nn.Module, config: Optimizer, world: World) -> None:
        self.config = config
        self.world = world
        self.parameters = dict(model.named_parameters())
        self.rows = {name: own_rows(value, world) for name, value in self.parameters.items()}
        self.first = {name: zero_moments(value, world) for name, value in self.parameters.items()}
        self.second = {name: zero_moments(value, world) for name, value in self.parameters.items()}
        self.updates = torch.zeros((), device=world.device)
        small = {name for name, _ in vector_parameters(model)}
        everything = config.decayed == "all"
        self.groups = [
            ([name for name in self.parameters if everything or name not in small], config.weight_decay),
            ([name for name in self.parameters if not everything and name in small], 0.0),
        ]
        self.salts = {
            name: stochastic_rounding.salt(name, self.first[name])
            for name, value in self.parameters.items()
            if value.dtype == torch.bfloat16
        }

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """All there is to save; loading writes into these tensors."""
        yield "updates", self.updates
        for name in self.parameters:
            yield f"first.{name}", self.first[name]
            yield f"second.{name}", self.second[name]

    def gradient_norm(self, known: Mapping[Tensor, Tensor] | None = None) -> Tensor:
        """The 2-norm over all ranks; not finite if any gradient is not. Ranks that have come by here have done all
        their backward. `known` has norms of what this rank updates of some parameters' gradients, as
        `row_exchange.norms` makes them."""
        norm_of = dict(known or {})
        own = {one: self._own(name, one.grad) for name, one in self.parameters.items() if one.grad is not None}
        missing = [parameter for parameter in own if parameter not in norm_of]
        norm_of |= zip(missing, norms([own[parameter] for parameter in missing]), strict=True)
        sharded: list[Tensor] = []
        whole: list[Tensor] = []
        group = None
        for name, parameter in self.parameters.items():
            if parameter not in own:
                continue
            moment = self.first[name]
            if isinstance(moment, DTensor):
                sharded.append(norm_of[parameter])
                mesh, dimension = shard_mesh(moment)
                group = mesh.get_group(dimension)
            else:
                whole.append(norm_of[parameter])
        squares = torch.stack([_square(sharded, self.world.device), _square(whole, self.world.device)])
        if group is not None:
            dist.all_reduce(squares[0], group=group)
        return squares.sum().sqrt()

    @torch.no_grad()
    def update(
        self, lr: float, norm: Tensor, healthy: Tensor, updated: Callable[[Tensor], None] = lambda parameter: None
    ) -> None:
        """One step downhill, with the gradient scaled down to the norm that the recipe allows; none where `healthy`, a
        boolean on the device and the same on all ranks, is false. `updated` is told of each matrix of which this rank
        updated its own rows alone."""
        divide_by = torch.clamp(norm / self.config.clip_norm, min=1.0)
        broken = 1.0 - healthy.float()
        updates = self.updates + (1.0 - broken)
        for names, decay in self.groups:
            rates = stochastic_rounding.Rates.of(
                self.config, self._scalar(lr), self._scalar(decay), divide_by, self.updates + 1.0, healthy
            )
            wide: list[Shards] = []
            for name in names:
                parameter = self.parameters[name]
                if parameter.grad is None or not local(parameter).numel():  # more ranks than rows
                    continue
                weight, grad = self._own(name, parameter), self._own(name, parameter.grad)
                shards = weight, grad, local(self.first[name]), local(self.second[name])
                if name in self.salts:
                    stochastic_rounding.update(*shards, self.salts[name], rates, self.config)
                    if self.rows[name] is not None:
                        updated(parameter)
                else:
                    wide.append(shards)
            if wide:
                self._fused_update(wide, lr, decay, divide_by, broken)
        self.updates.copy_(updates)
        for parameter in self.parameters.values():
            parameter.grad = None

    def _fused_update(self, shards: list[Shards], lr: float, decay: float, divide_by: Tensor, broken: Tensor) -> None:
        """torch's own kernel over all of `shards`."""
        config = self.config
        params, grads, first, second = (list(tensors) for tensors in zip(*shards, strict=True))
        adamw(
            params,
            grads,
            first,
            second,
            max_exp_avg_sqs=[],
            state_steps=list(self.updates.repeat(len(shards)).unbind()),  # the call counts each of them up
            fused=True,
            # Meant for a gradient scaler: the kernel divides by the one, and does nothing where the other is 1. So
            # clipping and leaving a step undone cost no pass over the gradients, and no wait for the device.
            grad_scale=divide_by,
            found_inf=broken,
            amsgrad=False,
            maximize=False,
            lr=lr,
            weight_decay=decay,
            beta1=config.beta1,
            beta2=config.beta2,
            eps=config.eps,
        )

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        """What this rank updates of a parameter, of its values or its gradient."""
        rows = self.rows[name]
        return local(tensor) if rows is None else tensor[rows]

    def _scalar(self, value: float) -> Tensor:
        return torch.full((), value, device=self.world.device)


def _square(of_each: list[Tensor], device: torch.device) -> Tensor:
    """The square of the 2-norm of all of them."""
    return torch.stack(of_each).square().sum() if of_each else torch.zeros((), device=device)
