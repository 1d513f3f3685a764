"""What a training step takes of a GPU's memory at least, by arithmetic, so that what cannot fit is refused in its first
second and not by an allocation hours into a queue.

Counted is only what must be there at once when the backward begins: weights and moments, gradients of earlier
micro-batches, what the blocks leave for their backward, and one piece of logits. That is 94 to 99 % of what torch held
at the peak of steps on H200s (tests/trainer/test_memory.py); the rest is gathered weights, the head's gradient and
workspaces. So nothing that could run is refused.

What a block leaves is what the compiler's partitioner keeps of it, which a test counts in bytes: it makes additions,
norms and activations again, and keeps whatever a product or a kernel made or reads.
"""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from bamba_data.errors import UserError

from ..config import Compute, Recipe
from ..context.group import check_ranks
from ..distributed.offload import ON_DEVICE
from ..distributed.peer_copies import decided
from ..kernels.shapes import STATE_TOKENS
from ..model.config import LayerParts, ModelConfig

GIB = 2**30
WIDE_BYTES = 4  # of a float32


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes on one rank. `learner`: weights, moments and kept gradients; `activations`: of one micro-batch; `logits`:
    one piece of them; `host`: what of the activations lies in the host's memory instead."""

    learner: int
    activations: int
    logits: int
    host: int = 0

    @property
    def total(self) -> int:
        """Of the GPU's memory."""
        return self.learner + self.activations + self.logits


def minimum_need(recipe: Recipe, ranks: int) -> MemoryNeed:
    """What a rank of `ranks` needs at least. `UserError` where the ranks cannot share rows as the recipe says."""
    data, compute = recipe.data, recipe.compute
    check_ranks(ranks, compute.context_ranks)
    rows = -(-data.batch_rows // (ranks // compute.context_ranks))
    several = rows > compute.micro_rows
    return need_of(recipe.model, compute, recipe.optimizer.memory, data.row_tokens, ranks, several=several)


def need_of(
    model: ModelConfig,
    compute: Compute,
    memory: Literal["full", "low"],
    row_tokens: int,
    ranks: int,
    *,
    several: bool,
) -> MemoryNeed:
    """What a rank of `ranks` needs at least for `compute.micro_rows` rows of `row_tokens`.

    Bytes a parameter are counted as in ZeRO (arXiv 1910.02054, section 3). A GPU is meant, where attention needs no
    mask of all pairs of tokens when blocks are compiled. What `compute.row_exchange` keeps is counted where it is
    `copies`, not where it is `auto`.

    Args:
        memory: `optimizer.memory`.
        several: A step takes several micro-batches, whose gradients are summed in float32.
    """
    shards = compute.shard_ranks or ranks
    if memory == "full":
        learner = model.parameters * (12 + 4 * several) // shards
    elif shards == 1:
        learner = model.parameters * (2 + 4 * several) + model.parameters * 4 // ranks  # moments of own rows
        if compute.row_exchange == "copies" and not several:
            learner += model.parameters * 2 * (ranks - 1) // ranks  # places for other ranks' gradients of them
    else:
        learner = model.parameters * 6 // shards + model.parameters * 4 * several  # whole on each rank, until the last
    bytes_each = 2 if compute.dtype == "bfloat16" else WIDE_BYTES
    tokens = compute.micro_rows * row_tokens // compute.context_ranks
    stream = tokens * stream_bytes(model, compute)
    layers = [_kept_bytes(model, parts, compute, row_tokens) for parts in model.layer_parts]
    host = 0
    if compute.recompute == "full":
        layers = [max(layers)]  # of the block that is recomputed
        if compute.offload_residuals:
            host = stream * max(model.layers - ON_DEVICE, 0)
    activations = stream * model.layers - host + sum(layers)
    if _keeps_codes(compute):  # of the weights, turned: from a block's forward to its backward, whole on each rank
        activations += model.matmul_parameters - model.hidden_size * model.vocab_size
    if model.attention_indices and not compute.compile:
        activations += tokens * row_tokens
    return MemoryNeed(
        learner, activations, min(tokens, compute.loss_chunk_tokens) * model.vocab_size * bytes_each, host
    )


def stream_bytes(model: ModelConfig, compute: Compute) -> int:
    """Of the residual stream, a token."""
    bytes_each = 2 if compute.dtype == "bfloat16" else WIDE_BYTES
    return model.hidden_size * (WIDE_BYTES if compute.residual == "float32" else bytes_each)


def _kept_bytes(model: ModelConfig, parts: LayerParts, compute: Compute, row_tokens: int) -> int:
    """What a block leaves for its backward of one micro-batch, without the stream that goes into it."""
    bytes_each = 2 if compute.dtype == "bfloat16" else WIDE_BYTES
    tokens = compute.micro_rows * row_tokens // compute.context_ranks
    # What products read: made again where the rule is selective; the compiler keeps codes of it in float8, not counted.
    read = compute.recompute != "selective" and compute.float8 == "none"
    numbers = kept_numbers(model, parts, read=read) * tokens
    if parts.mixer == "attention" and compute.context_ranks > 1:  # keys and values of whole rows
        numbers += 2 * model.kv_heads * model.head_dim * (compute.micro_rows * row_tokens - tokens)
    codes = (kept_numbers(model, parts) - kept_numbers(model, parts, read=False)) * tokens
    return numbers * bytes_each + codes * _keeps_codes(compute)


def _keeps_codes(compute: Compute) -> bool:
    """Whether blocks keep what their products in float8 read, and their weights, as turned codes of a byte."""
    return compute.float8_casts == "kernel" and compute.recompute == "none"


def kept_numbers(model: ModelConfig, parts: LayerParts, *, read: bool = True) -> int:
    """Numbers a token that a compiled block keeps for its backward beside its input: what its products and its kernels
    made, and what its products `read`."""
    hidden = model.hidden_size
    made = {None: 0, "mamba": _made_by_mamba(model), "attention": _made_by_attention(model)}[parts.mixer]
    reads = {None: 0, "mamba": hidden + model.inner_size, "attention": hidden}[parts.mixer]
    if parts.mlp:
        made += model.mlp_size * (model.mlp_matrices - 1)
        reads += hidden + model.mlp_size
        if parts.mixer is not None:
            made += hidden  # of the mixer: with the block's input it gives the stream that the MLP adds to
    return made + reads * read


def _made_by_mamba(model: ModelConfig) -> int:
    """The packed projection, the convolution, the scan and some of its states."""
    projected = model.inner_size + model.conv_channels + model.mamba_heads
    states = model.inner_size * model.mamba_state // STATE_TOKENS
    return projected + model.inner_size + model.conv_channels + states


def _made_by_attention(model: ModelConfig) -> int:
    """Queries, keys, values, and what attention made of them."""
    return 2 * model.attention_size + 2 * model.kv_heads * model.head_dim


def check_fits_memory(recipe: Recipe, ranks: int, device: torch.device) -> None:
    """`UserError` if this GPU is too small for the recipe; a CPU swaps, it is left alone."""
    if device.type != "cuda":
        return
    recipe = _decided(recipe, ranks, device)
    there = torch.cuda.get_device_properties(device).total_memory
    compare(recipe, ranks, there, torch.cuda.get_device_name(device))
    host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    compare_host(recipe, ranks, host_bytes, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def compare_host(recipe: Recipe, ranks: int, there_bytes: int, local_ranks: int) -> None:
    """`UserError` if the streams that `local_ranks` ranks send to their host need more than its `there_bytes`."""
    need = minimum_need(recipe, ranks).host
    if need * local_ranks > there_bytes:
        raise UserError(
            f"compute.offload_residuals: this host has {there_bytes / GIB:,.1f} GiB of memory, and its {local_ranks} "
            f"ranks would send {need / GIB:,.1f} each there. Ways out: compute.context_ranks above "
            f"{recipe.compute.context_ranks}, compute.residual: compute, shorter rows"
        )


def memory_note(recipe: Recipe, ranks: int, device: torch.device) -> str | None:
    """What is said before the first step: what a rank needs, and what its GPU has; None on a CPU."""
    if device.type != "cuda":
        return None
    need = said(_decided(recipe, ranks, device), ranks)
    there = torch.cuda.get_device_properties(device).total_memory
    return f"memory: {need}; {torch.cuda.get_device_name(device)} has {there / GIB:,.1f}"


def _decided(recipe: Recipe, ranks: int, device: torch.device) -> Recipe:
    """With what `auto` comes to on these devices."""
    how = decided(recipe.compute.row_exchange, ranks, device)
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"row_exchange": how})})


def _shared(ranks: int) -> str:
    return f", each shared by {ranks} ranks (compute.context_ranks)" if ranks > 1 else ""


def said(recipe: Recipe, ranks: int) -> str:
    """What each rank needs at least, part by part, in words."""
    need, compute = minimum_need(recipe, ranks), recipe.compute
    host = f", and {need.host / GIB:,.1f} of the host's memory" if need.host else ""
    return (
        f"each of {ranks} ranks needs {need.total / GIB:,.1f} GiB at least: {need.learner / GIB:,.1f} for weights, "
        f"moments and gradients, {need.activations / GIB:,.1f} for the activations of {compute.micro_rows} rows of "
        f"{recipe.data.row_tokens:,} tokens (data.row_tokens){_shared(compute.context_ranks)}, "
        f"{need.logits / GIB:,.1f} for logits{host}"
    )


def compare(recipe: Recipe, ranks: int, there_bytes: int, device: str) -> None:
    """`UserError` if the recipe needs more than `there_bytes` on each of `ranks`; naming the parts and ways out."""
    need, compute = minimum_need(recipe, ranks), recipe.compute
    if need.total <= there_bytes:
        return
    ways = ["more ranks"] if need.learner > there_bytes else []
    ways += [f"compute.context_ranks above {compute.context_ranks}"] if compute.context_ranks < ranks else []
    ways += [f"compute.micro_rows below {compute.micro_rows}"] if compute.micro_rows > 1 else []
    ways += ["compute.recompute: full"] if compute.recompute != "full" else []
    ways += ["compute.offload_residuals: true"] if compute.recompute == "full" and not need.host else []
    ways += ["optimizer.memory: low"] if recipe.optimizer.memory != "low" else []
    raise UserError(
        f"{device} has {there_bytes / GIB:,.1f} GiB and {said(recipe, ranks)}. Ways out: "
        f"{', '.join([*ways, 'shorter rows'])}"
    )
