"""torchao's linear in float8 with the casts of its backward by a kernel of ours: each matrix is read once for both ways
that products want it (trainer/kernels/float8_cast.py). Scales, codes, products and their order are torchao's, so the
bits are; one scale a matrix. Import it where torchao is known to be there.
"""

from typing import Any

import torch
from torch import Tensor
from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args
from torchao.float8.float8_training_tensor import Float8TrainingTensor, GemmInputRole
from torchao.float8.float8_utils import tensor_to_scale

from bamba_data.errors import UserError

from ..kernels import reference
from ..kernels.float8_cast_op import CODES
from ..kernels.ops import float8_cast, float8_turned


@torch._dynamo.allow_in_graph
class _Product(matmul_with_hp_or_float8_args):  # type: ignore[misc]
    """Forward as it is there."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_t = ctx.saved_tensors
        rows, grad = x.reshape(-1, x.shape[-1]), grad_output.reshape(-1, grad_output.shape[-1])
        config = ctx.config

        def held(data: Tensor, scale: Tensor, like: Tensor, role: GemmInputRole) -> Any:
            return Float8TrainingTensor(data, scale, like.dtype, ctx.linear_mm_config, role)

        of_grad = config.cast_config_grad_output.target_dtype
        scale = tensor_to_scale(grad, of_grad)
        grad_rows, grad_turned = float8_cast(grad, scale, of_grad)
        of_weight = config.cast_config_weight_for_grad_input.target_dtype
        weight_scale = tensor_to_scale(weight_t, of_weight)
        weight = float8_turned(weight_t.t(), weight_scale, of_weight).t()
        into_x = torch.mm(
            held(grad_rows, scale, grad, GemmInputRole.GRAD_OUTPUT),
            held(weight, weight_scale, weight_t, GemmInputRole.WEIGHT),
        )
        of_input = config.cast_config_input_for_grad_weight.target_dtype
        input_scale = tensor_to_scale(rows, of_input)
        inputs = float8_turned(rows, input_scale, of_input).t()
        into_weight = torch.mm(
            held(grad_turned, scale, grad, GemmInputRole.GRAD_OUTPUT),
            held(inputs, input_scale, rows, GemmInputRole.INPUT),
        )
        return into_x.reshape(x.shape), into_weight.t(), None, None


class OneReadLinear(Float8Linear):  # type: ignore[misc]
    """Made of a `Float8Linear`, whose class becomes this one."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = _Product.apply(input, self.weight.t(), self.linear_mm_config, self.config)
        return product if self.bias is None else product + self.bias.to(product.dtype)


def check_cast(device: torch.device) -> None:
    """`UserError` if the kernel gives other codes on this device than torch does: a run must not begin so."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(300, 272, generator=draw) * torch.exp(5 * torch.randn(300, 272, generator=draw))
    given = x.bfloat16().to(device), torch.full((), 3.7, device=device)
    for dtype in CODES:
        got = float8_cast(*given, dtype)
        wanted = reference.float8_cast(*given, dtype, True)
        if not all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(got, wanted, strict=True)):
            raise UserError(
                f"compute.float8_casts: the kernel's codes of {dtype} on {device} are not torch's: leave it at compiled"
            )
