"""All that the scan's backward makes of a chunk, once the gradient of the state behind each is there: one launch.

Three kinds of programs work side by side, nine for each chunk and bundle of heads: two make dx (ssd_dx.py), three the
gradients of scores and of the decays between tokens (ssd_pairs.py), four those of B and C that go through states
(ssd_states.py). As three kernels they read x, dy and the gradients of states from memory three times; side by side all
but the first find them in the cache, and while one kind waits for memory, another computes: 516 us where the three
took 630 (an H200, 2 x 4096 tokens of Bamba-9B).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch
from .shapes import ScanInputs
from .ssd_decay import Decays
from .ssd_dx import token_gradients
from .ssd_pairs import pair_gradients
from .ssd_states import state_gradients
from .tiles import opened, stack, tiles

CHUNKS = TunableLaunch(
    "scan_chunks.CHUNKS", Launch(warps=4, stages=2, block=16)
)  # block: heads of a bundle; 2 programs on a multiprocessor
PROGRAMS = 9  # for each chunk and bundle


@triton.jit
def _chunk_gradients(
    x, dy, b, c, states, lams, scores, dx,
    steps, sums, enters, kepts, d,
    dscores, starts, stops, skips, outlive, arrivals, through, sums_of_heads,
    tokens, heads, bundles, groups, batches, group_heads,
    PROGRAMS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
    SLOTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    x, dy, b, c, dx = opened(x), opened(dy), opened(b), opened(c), opened(dx)
    states, lams, scores = opened(states), opened(lams), opened(scores)
    unit = tl.program_id(0) // PROGRAMS
    kind = tl.program_id(0) % PROGRAMS
    more: tl.constexpr = STAGES + (STAGES > 1)  # those of dx have larger tiles
    if kind < 2:
        token_gradients(
            unit, kind, x, dy, b, lams, scores, steps, sums, kepts, d, dx, outlive,
            tokens, heads, bundles, groups,
            BLOCK, STATE, WIDTH, HEADS, SLOTS, STAGES,
        )  # fmt: skip
    elif kind < 5:
        pair_gradients(
            unit, kind - 2, x, dy, scores, steps, sums, dscores, starts, stops, skips,
            tokens, heads, bundles, groups, batches,
            BLOCK, WIDTH, HEADS, SLOTS, more,
        )  # fmt: skip
    else:
        state_gradients(
            unit, kind - 5, x, dy, c, states, lams, enters, kepts, arrivals, through, sums_of_heads,
            tokens, heads, bundles, batches, group_heads,
            2 * BLOCK, STATE, WIDTH, HEADS, SLOTS, BLOCK, more,
        )  # fmt: skip


class ChunkGrads(NamedTuple):
    """All float32; sums over a token's heads and pairs are laid out like the decays.

    dscores: (bundles of heads, batch x chunks, chunk, chunk), sources in rows, the seen pairs only meant. starts, (3,
    …): of what starts at a token, by the block that it ends in (a second block's are in [1] only) and, the third, what
    outlives the chunk. stops, (2, …): of what ends at a token, by the block that it started in (a first block's are in
    [0] only). skips: of x . dy. states: dB and dC as far as they go through states, (2, bundles, batch, tokens, state),
    still to be summed over a group's bundles. arrivals: E of ssd_states.py. through: exp(S) <lam, h>, (batch, chunks,
    heads).
    """

    dscores: Tensor
    starts: Tensor
    stops: Tensor
    skips: Tensor
    states: Tensor
    arrivals: Tensor
    through: Tensor


def chunk_gradients(
    inputs: ScanInputs, grad: Tensor, decay: Decays, met: Tensor, lams: Tensor, scores: Tensor, dx: Tensor
) -> ChunkGrads:
    """Write dx, return what all other gradients are made of.

    Args:
        grad: Of y, like x.
        met: The state before each chunk, (batch, chunks, heads, state, head_dim).
        lams: The gradient of the state after each, laid out like it.
        scores: As `ssd_pairs.all_scores` makes them, of blocks of which a chunk has two.
    """
    batch, tokens, heads, width = inputs.x.shape
    groups, size = inputs.B.shape[2:]
    chunk = scores.shape[-1]
    places, block = scores.shape[0] // groups, chunk // 2
    together = bundled(inputs.group_heads, CHUNKS.block)
    bundles = heads // together

    def table(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=grad.device)

    line = decay.sums.shape
    of_pairs = table(bundles, places, chunk, chunk), table(3, *line), table(2, *line), table(*line)
    of_states = table(2, bundles, batch, tokens, size), table(*line), table(batch, places // batch, heads)
    grads = ChunkGrads(*of_pairs, *of_states)
    options = CHUNKS.options(grad)
    _chunk_gradients[(places * bundles * PROGRAMS,)](
        tiles(inputs.x, block, width), tiles(grad, block, width), tiles(inputs.B, block, size),
        tiles(inputs.C, block, size), stack(met, size), stack(lams, size), stack(scores, block, block),
        tiles(dx, block, width),
        decay.steps, decay.sums, decay.enter, decay.kept, inputs.D,
        *of_pairs, grads.starts[2], grads.arrivals, grads.through, grads.states,
        tokens, heads, bundles, groups, batch, inputs.group_heads,
        PROGRAMS=PROGRAMS, BLOCK=block, STATE=size, WIDTH=width, HEADS=together,
        SLOTS=triton.next_power_of_2(together), STAGES=options["num_stages"], **options,
    )  # fmt: skip
    return grads


def bundled(group_heads: int, wanted: int) -> int:
    """Heads of a bundle: the largest number, at most `wanted`, that divides those of a group."""
    return next(size for size in range(min(wanted, group_heads), 0, -1) if group_heads % size == 0)
