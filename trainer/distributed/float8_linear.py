"""torchao's linear in float8 with casts by a kernel of ours: each matrix is read once and written both ways that
products want it (trainer/kernels/float8_cast.py), inputs and weights in the forward. Their scales are the same in the
backward, so it finds them turned and reads neither again: a byte a number is kept in place of what they were made of,
and one a number of the weights, 8.7 GB of Bamba-9.8B.

Scales, codes, products and their order are torchao's, so the bits are; one scale a matrix. Import it where torchao is
known to be there.
"""

from typing import Any

import torch
from torch import Tensor
from torchao.float8.float8_linear import Float8Linear
from torchao.float8.float8_training_tensor import Float8TrainingTensor, GemmInputRole, LinearMMConfig
from torchao.float8.float8_utils import amax_to_scale

from bamba_data.errors import UserError

from ..kernels import reference
from ..kernels.float8_cast_op import CODES
from ..kernels.ops import float8_cast


@torch._dynamo.allow_in_graph
class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, products: LinearMMConfig, config: Any) -> Tensor:
        ctx.products, ctx.of_grad, ctx.shape = products, config.cast_config_grad_output.target_dtype, x.shape
        ctx.like, ctx.weight_like = x.dtype, weight.dtype
        given = x.reshape(-1, x.shape[-1])
        rows, turned, scale = _both_ways(given, config.cast_config_input.target_dtype)
        weight_rows, weight_turned, weight_scale = _both_ways(weight, config.cast_config_weight.target_dtype)
        ctx.save_for_backward(turned, scale, weight_turned, weight_scale)
        out = torch.mm(
            Float8TrainingTensor(rows, scale, x.dtype, products, GemmInputRole.INPUT),
            Float8TrainingTensor(weight_rows.t(), weight_scale, weight.dtype, products, GemmInputRole.WEIGHT),
        )
        return out.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        inputs, input_scale, weight, weight_scale = ctx.saved_tensors
        products, grad = ctx.products, grad_output.reshape(-1, grad_output.shape[-1])
        rows, turned, scale = _both_ways(grad, ctx.of_grad)
        into_x = torch.mm(
            Float8TrainingTensor(rows, scale, grad.dtype, products, GemmInputRole.GRAD_OUTPUT),
            Float8TrainingTensor(weight.t(), weight_scale, ctx.weight_like, products, GemmInputRole.WEIGHT),
        )
        into_weight = torch.mm(
            Float8TrainingTensor(turned, scale, grad.dtype, products, GemmInputRole.GRAD_OUTPUT),
            Float8TrainingTensor(inputs.t(), input_scale, ctx.like, products, GemmInputRole.INPUT),
        )
        return into_x.reshape(ctx.shape), into_weight, None, None


def _both_ways(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The codes as they lie and turned, and their scale."""
    # The largest of each row first: what makes x by rows, a norm or an activation, finds it on the way when compiled.
    scale = amax_to_scale(x.abs().amax(-1).amax(), dtype)
    return *float8_cast(x, scale, dtype), scale


class OneReadLinear(Float8Linear):  # type: ignore[misc]
    """Made of a `Float8Linear`, whose class becomes this one."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # nothing is read turned
            forward: Tensor = super().forward(input)
            return forward
        product: Tensor = _Product.apply(input, self.weight, self.linear_mm_config, self.config)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product.dtype)


def check_cast(device: torch.device) -> None:
    """`UserError` if the kernel gives other codes on this device than torch does: a run must not begin so."""
    draw = torch.Generator().manual_seed(1)
    for shape in ((256, 384), (300, 272)):  # whole tiles, and not
        x = torch.randn(shape, generator=draw) * torch.exp(5 * torch.randn(shape, generator=draw))
        x[0, :4] = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])
        given = x.bfloat16().to(device), torch.full((), 3.7, device=device)
        for dtype in CODES:
            pairs = zip(float8_cast(*given, dtype), reference.float8_cast(*given, dtype), strict=True)
            if not all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs):
                raise UserError(
                    f"compute.float8_casts: the kernel's codes of {dtype} on {device} are not torch's: leave it at "
                    "compiled"
                )
