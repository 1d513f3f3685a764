"""What a training step takes of a GPU's memory at least, by arithmetic, so that what cannot fit is refused in its first
second and not by an allocation hours into a queue.

Counted is only what must be there at once when the backward begins: weights and moments, gradients of earlier
micro-batches, what the blocks leave for their backward, and one piece of logits. A run takes more (buffers, gathered
weights, workspaces: 112 GiB measured where 96 are counted), so nothing that could run is refused.
"""

from dataclasses import dataclass

import torch

from bamba_data.errors import UserError

from ..config import Recipe
from ..context.group import check_ranks
from ..kernels.shapes import STATE_TOKENS
from ..model.config import ModelConfig

GIB = 2**30
WIDE_BYTES = 4  # of a float32


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes on one rank. `learner`: weights, moments and kept gradients; `activations`: of one micro-batch; `logits`:
    one piece of them."""

    learner: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.learner + self.activations + self.logits


def minimum_need(recipe: Recipe, ranks: int) -> MemoryNeed:
    """What a rank of `ranks` needs at least. `UserError` where the ranks cannot share rows as the recipe says.

    Bytes a parameter are counted as in ZeRO (arXiv 1910.02054, section 3). A GPU is meant, where attention needs no
    mask of all pairs of tokens when blocks are compiled.
    """
    compute, model = recipe.compute, recipe.model
    shards = compute.shard_ranks or ranks
    check_ranks(ranks, compute.context_ranks)
    rows = -(-recipe.data.batch_rows // (ranks // compute.context_ranks))
    several = rows > compute.micro_rows
    if recipe.optimizer.memory == "full":
        learner = model.parameters * (12 + 4 * several) // shards
    else:
        learner = model.parameters * 6 // shards + model.parameters * 4 * several  # whole on each rank, until the last
    bytes_each = 2 if compute.dtype == "bfloat16" else WIDE_BYTES
    tokens = compute.micro_rows * recipe.data.row_tokens // compute.context_ranks
    streams = model.hidden_size * (WIDE_BYTES if compute.residual == "float32" else bytes_each)
    kept = [_kept(model, layer in model.attention_indices) * bytes_each for layer in range(model.layers)]
    if compute.recompute == "full":
        kept = [max(kept)]  # of the block that is recomputed
    activations = tokens * (streams * model.layers + sum(kept))
    if model.attention_indices and not compute.compile:
        activations += tokens * recipe.data.row_tokens
    return MemoryNeed(learner, activations, min(tokens, compute.loss_chunk_tokens) * model.vocab_size * bytes_each)


def _kept(model: ModelConfig, attends: bool) -> int:
    """Numbers a token that a block keeps for its backward: what its products and its mixer made."""
    mlp = 2 * model.mlp_size
    if attends:
        return mlp + model.hidden_size + (model.attention_heads + 2 * model.kv_heads) * model.head_dim
    projected = model.inner_size + model.conv_channels + model.mamba_heads
    states = model.inner_size * model.mamba_state // STATE_TOKENS
    return mlp + projected + 2 * model.inner_size + model.conv_channels + states


def check_fits_memory(recipe: Recipe, ranks: int, device: torch.device) -> None:
    """`UserError` if this GPU is too small for the recipe; a CPU swaps, it is left alone."""
    if device.type != "cuda":
        return
    there = torch.cuda.get_device_properties(device).total_memory
    compare(recipe, ranks, there, torch.cuda.get_device_name(device))


def _shared(ranks: int) -> str:
    return f", each shared by {ranks} ranks (compute.context_ranks)" if ranks > 1 else ""


def compare(recipe: Recipe, ranks: int, there_bytes: int, device: str) -> None:
    """`UserError` if the recipe needs more than `there_bytes` on each of `ranks`; naming the parts and ways out."""
    need = minimum_need(recipe, ranks)
    if need.total <= there_bytes:
        return
    ways = ["more ranks"] if need.learner > there_bytes else []
    shared = recipe.compute.context_ranks
    ways += [f"compute.context_ranks above {shared}"] if shared < ranks else []
    ways += [f"compute.micro_rows below {recipe.compute.micro_rows}"] if recipe.compute.micro_rows > 1 else []
    ways += ["compute.recompute: full"] if recipe.compute.recompute != "full" else []
    ways += ["optimizer.memory: low"] if recipe.optimizer.memory != "low" else []
    raise UserError(
        f"{device} has {there_bytes / GIB:,.1f} GiB and each of {ranks} ranks needs {need.total / GIB:,.1f} at least: "
        f"{need.learner / GIB:,.1f} for weights, moments and gradients, {need.activations / GIB:,.1f} for the "
        f"activations of {recipe.compute.micro_rows} rows of {recipe.data.row_tokens:,} tokens (data.row_tokens)"
        f"{_shared(shared)}, "
        f"{need.logits / GIB:,.1f} for logits. Ways out: {', '.join([*ways, 'shorter rows'])}"
    )
