"""The MLPs: SwiGLU (arXiv 2002.05202), down(silu(gate(x)) * up(x)) with gate and up in one matrix, and squared ReLU
(arXiv 2109.08668), down(relu(up(x))^2)."""

from torch import Tensor, nn
from torch.nn.functional import relu

from ..kernels.ops import swiglu
from .config import ModelConfig


class MLP(nn.Module):
    """`gate_up` holds the gate's rows first, then up's: one product instead of two, forward and backward."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))  # type: ignore[no-any-return]


class SquaredReLU(nn.Module):
    """Without a gate."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(relu(self.up(x)).square())  # type: ignore[no-any-return]


def mlp_of(config: ModelConfig) -> MLP | SquaredReLU:
    """The MLP of a model."""
    kind = SquaredReLU if config.mlp_kind == "relu2" else MLP
    return kind(config.hidden_size, config.mlp_size)
