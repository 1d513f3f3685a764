"""How the gradients of a step come together: over its micro-batches, and over the ranks.

Sharded matrices: FSDP2 sums them, block by block, while the backward still computes. Vectors: one message a step.
Matrices that lie whole on a rank in bfloat16 (`optimizer.memory: low`, not sharded): over micro-batches the products of
the head and of the blocks' linears add to a sum in float32 and write no gradient (kernels/add_product_op.py). The
gradients of the others, the embedding and linears in float8, are added to such a sum as soon as each is made, in one
pass that reads bfloat16, and are gone again; autograd would first write them in float32 and then add that. Over several
ranks (`compute.shard_ranks: 1`) the rows of each are summed at their owner as soon as the last backward has made it, in
the dtype it has, and updated rows go to all ranks beneath the next forward (trainer/distributed/row_exchange.py).
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..compiled import fused
from ..config import Compute
from ..distributed.fsdp import World
from ..distributed.peer_copies import exchange_of
from ..distributed.row_exchange import RowExchange
from ..distributed.row_shares import own_rows
from ..distributed.summing_linear import SummingLinear
from ..kernels.add_product_op import GradientSum, sums_in_product
from ..model.bamba import Bamba, Head, vector_parameters


class GradientSync:
    """Of a model that was distributed."""

    def __init__(self, model: Bamba, compute: Compute, world: World, *, low_memory: bool) -> None:
        self.model, self.world, self.low_memory = model, world, low_memory
        self.reshard = compute.reshard
        self._last = False
        self._sums: dict[Tensor, Tensor] = {}  # over the micro-batches so far, in float32
        self._under_way: list[Any] = []
        self._whole: list[Tensor] = []
        self._shared: set[Tensor] = set()  # matrices of which a rank updates its own rows alone
        self.exchange: RowExchange | None = None
        self._products: dict[Tensor, SummingLinear | Head] = {}  # of weights whose gradient a product may sum
        self._totals: dict[Tensor, Tensor] = {}  # their sums: kept, so that every step finds its memory there
        self._first = torch.tensor(True)  # nothing is in them yet
        self._summing = False  # this step has several micro-batches
        if not isinstance(model, FSDPModule):
            small = {parameter for _, parameter in vector_parameters(model)}
            self._whole = [parameter for parameter in model.parameters() if parameter not in small]
            for parameter in self._whole:
                parameter.register_post_accumulate_grad_hook(self._made)  # type: ignore[no-untyped-call]
            for part in [*model.blocks, model.head]:
                own = {one.weight: one for one in part.modules() if isinstance(one, SummingLinear | Head)}
                own = {weight: one for weight, one in own.items() if sums_in_product(weight)}
                part.register_forward_pre_hook(partial(self._watch, list(own)))
                self._products |= own
            self._shared = {parameter for parameter in self._whole if own_rows(parameter, world) is not None}
        if self._shared:
            modules = [model.embedding, *model.blocks, model.head]
            groups = [[one for one in module.parameters() if one in self._shared] for module in modules]
            self.exchange = exchange_of(groups, world, compute.row_exchange)
            for number, module in enumerate(modules):
                module.register_forward_pre_hook(partial(self._before_forward, number))

    def device_bytes(self) -> int:
        """Of the GPU's memory, that torch's allocator does not know of."""
        return self.exchange.device_bytes if self.exchange else 0

    def before_backward(self, *, last: bool) -> None:
        """Of one micro-batch, before its forward, too; `last` says that it is the last of the step."""
        self._first.fill_(not self._summing)
        if not last and not self._summing:
            self._sum_in_products()
        self._last = last
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_all_reduce(last)  # between groups of ranks, if there are several
            if not self.reshard:  # what is not resharded stays gathered until the last one
                self.model.set_reshard_after_backward(last)
            if self.low_memory:  # summed in float32: for want of a smaller place, whole on each rank until the last one
                self.model.set_requires_gradient_sync(last)
        for parameter in self._whole:
            if parameter.grad is None:  # of the step before it may be a float32 one
                parameter.grad_dtype = parameter.dtype

    def _made(self, parameter: Tensor) -> None:
        """The gradient of one micro-batch is there."""
        if self._summing and parameter in self._products:  # autograd says so of one that it has not, too
            return
        if not self._last or parameter in self._sums:
            self._add(parameter)
        if self._last:
            self._complete(parameter)

    def _complete(self, parameter: Tensor) -> None:
        """This rank's gradient of the step is there, and nothing is added to it any more."""
        if self.exchange is not None and parameter in self._shared:
            self.exchange.add_up(parameter)
        elif self.world.size > 1:
            self._under_way.append(dist.all_reduce(parameter.grad, async_op=True))

    def _sum_in_products(self) -> None:
        """From here to the end of the step."""
        self._summing = True
        for weight, module in self._products.items():
            if weight not in self._totals:
                self._totals[weight] = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
            module.into = GradientSum(self._totals[weight], self._first)

    def _watch(self, weights: list[Tensor], _: nn.Module, given: tuple[Any, ...]) -> None:
        """Before the forward of a block, or of the head: when the gradient of its input is there, those of its weights
        are."""
        if self._summing and self._last and given[0].requires_grad:
            given[0].register_hook(lambda _: self._summed(weights))

    def _summed(self, weights: list[Tensor]) -> None:
        for weight in weights:
            weight.grad_dtype = torch.float32
            weight.grad = self._totals[weight]
            self._complete(weight)

    def _add(self, parameter: Tensor) -> None:
        grad, parameter.grad = parameter.grad, None
        assert grad is not None
        if parameter in self._sums:
            wide = (-1, 16) if grad.numel() % 16 == 0 else (-1, 1)  # a known width: one compiled kernel with wide loads
            _add_to(self._sums[parameter].view(wide), grad.view(wide))
        else:
            self._sums[parameter] = grad.float()
        if self._last:
            parameter.grad_dtype = torch.float32
            parameter.grad = self._sums.pop(parameter)

    def finish(self) -> dict[Tensor, Tensor]:
        """After the last backward: what is computed from here on finds the sums over all ranks, of a matrix that is
        updated by rows in the own ones. Returns the norms that `RowExchange.added_up` knows."""
        known = {} if self.exchange is None else self.exchange.added_up()
        for work in self._under_way:
            work.wait()
        self._under_way.clear()
        for weight, module in self._products.items():
            module.into = None
            assert weight.grad is not None, "a matrix had no gradient in the last micro-batch"
        self._summing = False
        assert not self._sums, "a matrix had no gradient in the last micro-batch"
        grads = [parameter.grad for _, parameter in vector_parameters(self.model) if parameter.grad is not None]
        if self.world.size == 1 or not grads:
            return known
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
        return known

    def updated(self, parameter: Tensor) -> None:
        """This rank's own rows of it are new."""
        assert self.exchange is not None
        self.exchange.send(parameter)

    def weights_sent(self) -> None:
        """The update is over."""
        if self.exchange is not None:
            self.exchange.sent()

    def weights_settled(self) -> None:
        """What is computed from here on may read and write all weights, as the last update left them."""
        if self.exchange is not None:
            self.exchange.settle()

    def _before_forward(self, number: int, *_: Any) -> None:
        assert self.exchange is not None
        self.exchange.arrived(number)


@fused
def _add_to(total: Tensor, grad: Tensor) -> None:
    total.add_(grad)
