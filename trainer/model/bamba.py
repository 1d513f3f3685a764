"""The hybrid: embedding, blocks around a residual stream (mixer, MLP, or one after the other), a last norm, and an
untied head.

`Bamba(config)` makes it without values: `init_weights` draws them, or a checkpoint brings them. Between blocks the
residual stream is float32 or whatever the linears compute in, as `residual` says.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from ..context.exchange import end_to_end
from ..context.group import ALONE
from ..kernels.add_product_op import GradientSum
from ..kernels.conv_halo import HALO
from ..loss import summed_loss
from .attention import Attention
from .config import LayerParts, ModelConfig
from .document_mask import PackedRows, QueryBlocks, document_block_mask, document_masks
from .mamba2 import Mamba2
from .mlp import MLP, SquaredReLU, mlp_of
from .norm import RMSNorm
from .rotary import rotary_angles

Residual = Literal["float32", "compute"]


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)), of whichever of the two its layer has; the mixer is attention or
    Mamba2. Only those have parameters, so only those stand in checkpoints."""

    def __init__(self, config: ModelConfig, parts: LayerParts) -> None:
        super().__init__()
        self.mixer: Attention | Mamba2 | None = None
        self.mlp: MLP | SquaredReLU | None = None
        if parts.mixer is not None:
            self.mixer_norm = RMSNorm(config.hidden_size, config.norm_eps)
            self.mixer = Attention(config) if parts.mixer == "attention" else Mamba2(config)
        if parts.mlp:
            self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
            self.mlp = mlp_of(config)

    def forward(self, x: Tensor, rows: PackedRows) -> Tensor:
        if self.mixer is not None:
            x = x + self.mixer(self.mixer_norm(x, self.mixer.out_dtype), rows)
        if self.mlp is not None:
            x = x + self.mlp(self.mlp_norm(x, self.mlp.down.weight.dtype))
        return x


class Head(nn.Module):
    """The last norm and the projection to the vocabulary. It makes losses and never all the logits at once, except
    for those who ask for logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.fused = False  # the softmax of the loss as one compiled kernel
        self.into: GradientSum | None = None  # of the weight, summed over micro-batches; autograd has none of it then

    def forward(
        self, x: Tensor, labels: Tensor | None, scale: Tensor, chunk_tokens: int
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The summed loss and the loss of each token, see `summed_loss`; without labels the logits."""
        hidden: Tensor = self.norm(x, self.weight.dtype)
        if labels is None:
            return hidden @ self.weight.T
        return summed_loss(hidden, self.weight, labels, scale, chunk_tokens, fused=self.fused, into=self.into)


class Bamba(nn.Module):
    """Inputs are (batch, tokens): `input_ids`, `documents` (int32, ascending along a row), `positions` in a document.

    Args:
        residual: The dtype of the stream between blocks: float32, or what the linears compute in. In bfloat16 what a
            late block adds can be smaller than the stream's last digit.
        chunk_tokens: Of the loss: so many rows of logits exist at once.
    """

    def __init__(self, config: ModelConfig, residual: Residual = "float32", chunk_tokens: int = 8192) -> None:
        super().__init__()
        self.config = config
        self.residual = residual
        self.chunk_tokens = chunk_tokens
        self.context = ALONE  # this rank among those that hold its rows together
        self.compiled = False  # its blocks, of which a graph is made
        self.flex = False  # attend by flex_attention, which is fast where blocks are compiled, and only there
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, parts) for parts in config.layer_parts)
        self.head = Head(config)

    def rows(self, documents: Tensor, positions: Tensor) -> PackedRows:
        """What the blocks need to know of the batch; made once, outside of any compiled graph. Where ranks share rows,
        a collective call."""
        cos, sin = rotary_angles(positions, self.config)
        context, tokens = self.context, documents.shape[1]
        keys, documents_in = documents, None
        if context.ranks > 1:
            keys = end_to_end(documents, context)
            documents_in = pad(keys, (HALO, 0), value=-1)[:, context.rank * tokens :][:, :HALO].contiguous()
        mask: Tensor | QueryBlocks | BlockMask | None = None
        if self.config.attention_indices:
            before = context.rank * tokens
            if self.flex:
                mask = document_block_mask(documents, keys, before)
            else:
                mask = document_masks(documents, keys, before, skip=not self.compiled)
        return PackedRows(documents, cos, sin, mask, context, documents_in)

    def losses(
        self, input_ids: Tensor, documents: Tensor, positions: Tensor, labels: Tensor, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(the sum over all labels times `scale`, which has a gradient; one loss a token, 0 where the label is -100,
        which have none), both float32 and in nats."""
        total, each = self(input_ids, documents, positions, labels, scale)
        return total, each

    def logits(self, input_ids: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
        """(batch, tokens, vocab_size), for those who want to look or to sample."""
        logits: Tensor = self(input_ids, documents, positions)
        return logits

    def forward(
        self,
        input_ids: Tensor,
        documents: Tensor,
        positions: Tensor,
        labels: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        rows = self.rows(documents, positions)
        x = self.embedding(input_ids)
        if self.residual == "float32":
            x = x.float()
        for block in self.blocks:
            x = block(x, rows)
        scale = torch.ones((), device=x.device) if scale is None else scale
        return self.head(x, labels, scale, self.chunk_tokens)  # type: ignore[no-any-return]


def vector_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The small parameters: norms, convolutions, A_log, D, dt_bias. They stay whole and in float32 on every rank and
    are not decayed; everything else is a matrix."""
    return ((name, parameter) for name, parameter in model.named_parameters() if is_vector(name, parameter))


def is_vector(name: str, parameter: Tensor) -> bool:
    """The convolution's weight counts as one: (channels, 4), a filter a channel, which no product of matrices reads."""
    return parameter.dim() < 2 or name.endswith("conv_weight")
