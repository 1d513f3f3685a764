"""Parameters, FLOP and bytes of a model by part, and what a sequence holds while it is generated.

A multiply and an add are two FLOP. Weights are bfloat16, or fp8 in the layout of compressed-tensors: the linears of the
blocks one byte a weight and a bfloat16 scale a row; embedding, head and vectors as they were. A_log, D and dt_bias are
float32 in both, as is the state of the scan: in bfloat16 it drifts. Keys and values are bfloat16.
"""

from dataclasses import dataclass
from typing import Literal

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig

WeightFormat = Literal["bf16", "fp8"]
BF16_BYTES, FLOAT32_BYTES = 2, 4
#: The scan of one token by its definition: decay times state, dt x times B, their sum; times C, and its sum. In chunks
#: of 256 tokens, as kernels do it, 1.2 times that.
SCAN_FLOPS_PER_STATE_ELEMENT = 5


@dataclass(frozen=True, slots=True)
class Part:
    """`parameters` of all layers together; `flops_per_token` without what grows with the context; `weight_bytes` as
    they lie in memory. `fp8`: whether its products are of 8-bit floats."""

    name: str
    parameters: int
    flops_per_token: int
    weight_bytes: int
    fp8: bool = False


@dataclass(frozen=True, slots=True)
class ModelCost:
    """A model in a weight format, and what each of its sequences costs."""

    config: ModelConfig
    weights: WeightFormat = "bf16"

    @property
    def attention_layers(self) -> int:
        return len(self.config.attention_indices)

    @property
    def mamba_layers(self) -> int:
        return len(self.config.mamba_indices)

    @property
    def parts(self) -> list[Part]:
        """In the order of a forward. Their parameters sum to those of the model."""
        model, mambas = self.config, self.mamba_layers
        hidden, inner, heads = model.hidden_size, model.inner_size, model.mamba_heads
        queries = model.attention_size
        qkv = queries + 2 * model.kv_heads * model.head_dim
        embedding = model.vocab_size * hidden
        vectors = mambas * (model.conv_channels * (CONV_WIDTH + 1) + inner)
        scalars = mambas * 3 * heads  # A_log, D, dt_bias
        scan = SCAN_FLOPS_PER_STATE_ELEMENT * inner * model.mamba_state + 2 * CONV_WIDTH * model.conv_channels
        norms = (model.branches + 1) * hidden
        projected = inner + model.conv_channels + heads
        return [
            Part("embedding", embedding, 0, embedding * BF16_BYTES),
            self._linears("mamba linears", mambas, [(hidden, projected), (inner, hidden)]),
            Part(
                "convolution, scan, gated norm",
                vectors + scalars,
                mambas * scan,
                vectors * BF16_BYTES + scalars * FLOAT32_BYTES,
            ),
            self._linears("attention linears", self.attention_layers, [(hidden, qkv), (queries, hidden)]),
            self._linears(
                "MLP linears",
                len(model.mlp_indices),
                [*[(hidden, model.mlp_size)] * (model.mlp_matrices - 1), (model.mlp_size, hidden)],
            ),
            Part("norms", norms, 0, norms * BF16_BYTES),
            Part("head", embedding, 2 * embedding, embedding * BF16_BYTES),
        ]

    def _linears(self, name: str, layers: int, shapes: list[tuple[int, int]]) -> Part:
        """The (in, out) linears of `layers` layers."""
        weights = layers * sum(features * rows for features, rows in shapes)
        if self.weights == "bf16":
            return Part(name, weights, 2 * weights, weights * BF16_BYTES)
        scales = layers * sum(rows for _, rows in shapes)
        return Part(name, weights, 2 * weights, weights + scales * BF16_BYTES, fp8=True)

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        """What the model takes of memory."""
        return sum(part.weight_bytes for part in self.parts)

    @property
    def read_bytes(self) -> int:
        """What each step of decoding reads of them: all but the embedding, of which a token reads a row."""
        return sum(part.weight_bytes for part in self.parts if part.name != "embedding")

    @property
    def kv_elements_per_token(self) -> int:
        """Keys and values of all attention layers: 2 · layers · kv_heads · head_dim."""
        return 2 * self.attention_layers * self.config.kv_heads * self.config.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        return self.kv_elements_per_token * BF16_BYTES

    @property
    def scan_state_bytes(self) -> int:
        """Of a sequence, whatever its length: inner_size · mamba_state float32 a Mamba layer."""
        return self.mamba_layers * self.config.inner_size * self.config.mamba_state * FLOAT32_BYTES

    @property
    def conv_state_bytes(self) -> int:
        """The last inputs that the convolution looks back on, of a sequence, in bfloat16."""
        return self.mamba_layers * self.config.conv_channels * (CONV_WIDTH - 1) * BF16_BYTES

    @property
    def state_bytes(self) -> int:
        """What a sequence holds whatever its length."""
        return self.scan_state_bytes + self.conv_state_bytes

    def attention_flops(self, context_tokens: float) -> float:
        """Of one token that looks back on `context_tokens`: q·k and p·v, 4 FLOP a feature of the heads of queries."""
        return 4 * self.attention_layers * self.config.attention_size * context_tokens
