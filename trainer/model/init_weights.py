"""The first values of a model, a pure function of (seed, name of the parameter): the same on any number of ranks.

As the Mamba2 authors draw them (mamba_ssm/modules/mamba2.py in github.com/state-spaces/mamba), not as `transformers`
does (its dt_bias of 1 and A up to the number of heads make states that forget at once): A uniform in [1, 16], dt
log-uniform in [0.001, 0.1] through the inverse of softplus, linears uniform within 1/sqrt(inputs), and the linears
that write to the residual stream divided by the root of how many there are, as in GPT-2. Embeddings are normal with
deviation 0.02.
"""

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from ..kernels.supported import CONV_WIDTH
from .config import ModelConfig

DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4  # the authors' dt_init_floor


@torch.no_grad()
def init_weights(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Draw every parameter, on the device where it lies, one whole parameter at a time; shards keep their part."""
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        # A generator a parameter: what one draws does not depend on which others there are, or on their order.
        generator = torch.Generator(local.device).manual_seed(_seed(seed, name))
        whole = torch.empty(parameter.shape, dtype=torch.float32, device=local.device)
        _draw(whole, name, config, generator)
        local.copy_(_part(whole, parameter))


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 1


def _draw(whole: Tensor, name: str, config: ModelConfig, generator: torch.Generator) -> None:
    kind = name.rsplit(".", 1)[-1]
    if name == "embedding.weight":
        whole.normal_(0.0, 0.02, generator=generator)
    elif kind == "A_log":
        whole.uniform_(1.0, 16.0, generator=generator).log_()
    elif kind == "dt_bias":
        low, high = (math.log(bound) for bound in DT_RANGE)
        step = whole.uniform_(low, high, generator=generator).exp_().clamp_(min=DT_FLOOR)
        whole.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it gives the step back
    elif kind in ("conv_weight", "conv_bias"):
        bound = 1 / math.sqrt(CONV_WIDTH)
        whole.uniform_(-bound, bound, generator=generator)
    elif whole.dim() < 2:
        whole.fill_(1.0)  # norms and D
    else:
        bound = 1 / math.sqrt(whole.shape[1])
        if name.endswith(("out_proj.weight", "mixer.out.weight", "mlp.down.weight")):
            bound /= math.sqrt(config.branches)
        whole.uniform_(-bound, bound, generator=generator)


def _part(whole: Tensor, parameter: Tensor) -> Tensor:
    """The rows of `whole` that this rank holds of `parameter`."""
    if not isinstance(parameter, DTensor):
        return whole
    part = whole
    mesh = parameter.device_mesh
    for dimension, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            pieces = part.chunk(mesh.size(dimension), placement.dim)
            index = mesh.get_local_rank(dimension)
            part = pieces[index] if index < len(pieces) else part.narrow(placement.dim, 0, 0)
    return part
