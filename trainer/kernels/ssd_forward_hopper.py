"""The SSD scan forward for a Hopper GPU, in Gluon: `ssd_forward._scan`, with what waits for what decided by us.

The sums and products are those of ssd_forward.py, turned, and so are the bits: a state lies as (head_dim, state), so
that what a product left in registers, rounded, is what the next one takes from registers. Triton's own pipeline has
each tile on its way only when the tile before it is used up (a buffer more would leave one program a multiprocessor),
and waits for each product where it stands. Here tiles of x and B have two buffers, C's is free again after its second
product, the tables of the next chunk are in registers, exponentials are made beside one product and what goes into
the state beside another: 160 us where the other takes 216 (an H200, 2 x 4096 tokens of Bamba-9B).

What must not change without a look at `ptxas -v` and a GPU: a number of an older product that is used while a newer one
runs makes ptxas wait for all of them, and one register more is spilled (docs/kernels.md has the orders tried).
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language import PropagateNan
from triton.tools import tensor_descriptor

from . import tiles
from .shapes import STATE_TOKENS, ScanInputs
from .ssd_decay import Decays

CHUNK = 64  # tokens
BLOCK = 64  # channels of a program: the rows of a product by four warps
# named anew after Triton 3.6
load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
ALL_NANS = gl.constexpr(PropagateNan.ALL)


@gluon.jit
def _load_tables(tables, firsts, table, chunk, chunks, CHUNK: gl.constexpr):
    """Steps, sums, enters and kepts, a warp each, and firsts of a chunk, of the last one where there are no more."""
    of_all: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [4, 1], [1, 0])
    row = gl.arange(0, CHUNK, layout=gl.BlockedLayout([1], [32], [4], [0]))
    column = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, of_all))
    number = gl.arange(0, 4, layout=gl.SliceLayout(1, of_all))
    place = gl.minimum(chunk, chunks - 1) * CHUNK
    return gl.load(tables + number.to(gl.int64)[:, None] * table + (place + column)[None, :]), gl.load(
        firsts + place + row
    )


@gluon.jit
def _row(shared_tables, number: gl.constexpr, CHUNK: gl.constexpr):
    """One table of those in shared memory."""
    return shared_tables.reshape([4 * CHUNK]).slice(number * CHUNK, CHUNK)


@gluon.jit
def _scan_hopper(
    x, b, c, tables, firsts, d, y, states, first_state, last_state,
    tokens, heads, group_heads, table,
    CHUNK: gl.constexpr, STATE: gl.constexpr, WIDTH: gl.constexpr, BLOCK: gl.constexpr, EVERY: gl.constexpr,
    ENTERS: gl.constexpr, HANDS_ON: gl.constexpr,
):  # fmt: skip
    of_pairs: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, CHUNK, 16])
    of_state: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, STATE, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, of_pairs, 2)
    square: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])

    slices: gl.constexpr = WIDTH // BLOCK
    head = (gl.program_id(0) // slices) % heads
    batch = gl.program_id(0) // (slices * heads)
    own = (gl.program_id(0) % slices) * BLOCK
    channel = head * WIDTH + own
    of_group = (head // group_heads) * STATE
    chunks = gl.cdiv(tokens, CHUNK)
    tables += (batch * heads + head).to(gl.int64) * chunks * CHUNK
    firsts += batch.to(gl.int64) * chunks * CHUNK
    skip = gl.load(d + head).to(gl.float32)

    x_tiles = gl.allocate_shared_memory(x.dtype, [2, 1, CHUNK, BLOCK], x.layout)
    b_tiles = gl.allocate_shared_memory(x.dtype, [2, 1, CHUNK, STATE], b.layout)
    c_room = gl.allocate_shared_memory(x.dtype, [1, CHUNK, STATE], c.layout)
    y_room = gl.allocate_shared_memory(x.dtype, [1, CHUNK, BLOCK], y.layout)
    pairs = gl.allocate_shared_memory(x.dtype, [CHUNK, CHUNK], square)
    shared_tables = gl.allocate_shared_memory(gl.float32, [4, CHUNK], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    shared_firsts = gl.allocate_shared_memory(gl.int32, [CHUNK], line)
    x_arrived = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    b_arrived = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    c_arrived = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for number in gl.static_range(2):
        mbarrier.init(x_arrived.index(number), count=1)
        mbarrier.init(b_arrived.index(number), count=1)
    mbarrier.init(c_arrived, count=1)
    c_tile = c_room.reshape([CHUNK, STATE]).permute((1, 0))
    y_tile = y_room.reshape([CHUNK, BLOCK]).permute((1, 0))
    if EVERY:
        met_room = gl.allocate_shared_memory(x.dtype, [STATE, BLOCK], states.layout)

    for number in gl.static_range(2):
        mbarrier.expect(x_arrived.index(number), CHUNK * BLOCK * 2, pred=number < chunks)
        mbarrier.expect(b_arrived.index(number), CHUNK * STATE * 2, pred=number < chunks)
        load_tile(
            x, [batch, number * CHUNK, channel], x_arrived.index(number), x_tiles.index(number), pred=number < chunks
        )
        load_tile(
            b, [batch, number * CHUNK, of_group], b_arrived.index(number), b_tiles.index(number), pred=number < chunks
        )
    mbarrier.expect(c_arrived, CHUNK * STATE * 2)
    load_tile(c, [batch, 0, of_group], c_arrived, c_room)

    j = gl.arange(0, CHUNK, layout=gl.SliceLayout(1, of_pairs))
    i = gl.arange(0, CHUNK, layout=gl.SliceLayout(0, of_pairs))
    width = gl.arange(0, BLOCK, layout=gl.SliceLayout(1, of_state))
    n = gl.arange(0, STATE, layout=gl.SliceLayout(0, of_state))
    border = (batch * heads + head).to(gl.int64) * WIDTH * STATE + (own + width)[:, None] * STATE + n[None, :]
    if ENTERS:
        state = gl.load(first_state + border)
    else:
        state = gl.zeros([BLOCK, STATE], gl.float32, layout=of_state)
    nothing = gl.zeros([CHUNK, CHUNK], gl.float32, layout=of_pairs)
    numbers, first = _load_tables(tables, firsts, table, 0, chunks, CHUNK)
    carry = gl.load(tables + 2 * table.to(gl.int64) + gl.minimum(CHUNK, tokens) - 1)
    for chunk in range(chunks):
        start = chunk * CHUNK
        x_tile = x_tiles.index(chunk % 2).reshape([CHUNK, BLOCK]).permute((1, 0))
        b_tile = b_tiles.index(chunk % 2).reshape([CHUNK, STATE])
        shared_tables.store(numbers)
        shared_firsts.store(first)
        carried = carry
        numbers, first = _load_tables(tables, firsts, table, chunk + 1, chunks, CHUNK)
        carry = gl.load(tables + 2 * table.to(gl.int64) + gl.minimum(start + 2 * CHUNK, tokens) - 1)

        met = state.to(x.dtype)
        mbarrier.wait(b_arrived.index(chunk % 2), (chunk // 2) % 2)
        mbarrier.wait(c_arrived, chunk % 2)
        scores = warpgroup_mma(b_tile, c_tile, nothing, use_acc=False, is_async=True)  # sources in rows
        of_j = _row(shared_tables, 1, CHUNK).load(gl.SliceLayout(1, of_pairs))
        of_i = _row(shared_tables, 1, CHUNK).load(gl.SliceLayout(0, of_pairs))
        seen = (j[:, None] <= i[None, :]) & (j[:, None] >= shared_firsts.load(gl.SliceLayout(0, of_pairs))[None, :])
        apart = gl.exp2(gl.minimum(of_i[None, :] - of_j[:, None], 0.0, propagate_nan=ALL_NANS))
        apart = gl.where(seen, apart, 0.0) * _row(shared_tables, 0, CHUNK).load(gl.SliceLayout(1, of_pairs))[:, None]
        scores = warpgroup_mma_wait(0, deps=[scores])
        past = warpgroup_mma(gl.convert_layout(met, left), c_tile, nothing, use_acc=False, is_async=True)
        pairs.store((scores * apart).to(x.dtype))
        fence_async_shared()
        mbarrier.wait(x_arrived.index(chunk % 2), (chunk // 2) % 2)
        of_kept = _row(shared_tables, 3, CHUNK).load(gl.SliceLayout(0, left))
        added = (x_tile.load(left).to(gl.float32) * of_kept[None, :]).to(x.dtype)
        if EVERY:  # noqa: SIM102 (where it is 0, nothing of this is compiled)
            if chunk % EVERY == 0:
                tma.store_wait(1)  # not for y's, which is younger
                met_room.permute((1, 0)).store(met)
                fence_async_shared()
                spot = (batch * gl.cdiv(chunks, EVERY) + chunk // EVERY) * heads + head
                store_tile(states, [spot * STATE, own], met_room)
        past = warpgroup_mma_wait(0, deps=[past])
        more = chunk + 1 < chunks
        mbarrier.expect(c_arrived, CHUNK * STATE * 2, pred=more)
        load_tile(c, [batch, start + CHUNK, of_group], c_arrived, c_room, pred=more)
        state = warpgroup_mma(added, b_tile, state * carried, is_async=True)
        out = past * _row(shared_tables, 2, CHUNK).load(gl.SliceLayout(0, of_pairs))[None, :]
        out = warpgroup_mma(x_tile, pairs, out, is_async=True)
        out, state = warpgroup_mma_wait(0, deps=[out, state])
        out += skip * gl.convert_layout(x_tile.load(left), of_pairs).to(gl.float32)  # read again: registers are few
        again = chunk + 2 < chunks
        mbarrier.expect(x_arrived.index(chunk % 2), CHUNK * BLOCK * 2, pred=again)
        mbarrier.expect(b_arrived.index(chunk % 2), CHUNK * STATE * 2, pred=again)
        load_tile(
            x, [batch, start + 2 * CHUNK, channel], x_arrived.index(chunk % 2), x_tiles.index(chunk % 2), pred=again
        )
        load_tile(
            b, [batch, start + 2 * CHUNK, of_group], b_arrived.index(chunk % 2), b_tiles.index(chunk % 2), pred=again
        )
        if EVERY:
            if chunk % EVERY == 0:
                tma.store_wait(1)  # that of states, just begun, is younger
            else:
                tma.store_wait(0)
        else:
            tma.store_wait(0)
        y_tile.store(out.to(x.dtype))
        fence_async_shared()
        store_tile(y, [batch, start, channel], y_room)
    tma.store_wait(0)
    if HANDS_ON:
        gl.store(last_state + border, state)


def scan(inputs: ScanInputs, decay: Decays, y: Tensor, states: Tensor, last: Tensor) -> None:
    """Write y, and the states that are kept and the last one, unless these are empty."""
    batch, tokens, heads, width = inputs.x.shape
    state = inputs.B.shape[-1]
    kept = _in_gluon(tiles.stack(states, state, BLOCK)) if states.numel() else None
    _scan_hopper[(batch * heads * (width // BLOCK),)](
        _in_gluon(tiles.tiles(inputs.x, CHUNK, BLOCK)), _in_gluon(tiles.tiles(inputs.B, CHUNK, state)),
        _in_gluon(tiles.tiles(inputs.C, CHUNK, state)), decay.steps, decay.firsts, inputs.D,
        _in_gluon(tiles.tiles(y, CHUNK, BLOCK)), kept, inputs.state_in, last,
        tokens, heads, inputs.group_heads, decay.steps.numel(),
        CHUNK=CHUNK, STATE=state, WIDTH=width, BLOCK=BLOCK, EVERY=STATE_TOKENS // CHUNK if states.numel() else 0,
        ENTERS=inputs.state_in is not None, HANDS_ON=last.numel() > 0,
        num_warps=4,
    )  # fmt: skip


def _in_gluon(tile: tensor_descriptor.TensorDescriptor | tiles.Pointers) -> TensorDescriptor:
    """The same, which Gluon wants with a layout in shared memory."""
    assert isinstance(tile, tensor_descriptor.TensorDescriptor)  # a Hopper has a copy engine
    layout = gl.NVMMASharedLayout.get_default_for(tile.block_shape, gl.bfloat16)
    return TensorDescriptor(tile.base, tile.shape, tile.strides, tile.block_shape, layout)
