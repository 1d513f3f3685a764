"""SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x)), with gate and up in one matrix."""

from torch import Tensor, nn

from ..kernels.ops import swiglu


class MLP(nn.Module):
    """`gate_up` holds the gate's rows first, then up's: one product instead of two, forward and backward."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))  # type: ignore[no-any-return]
