"""Which Mamba2 blocks there are kernels for, stated once: a model's configuration, each call of the op and the tests
read it here. The plain torch form takes no more than a GPU, so that what trains on a CPU trains on a GPU.

The state is a tile of the tensor cores: a power of two. A head's channels are tiles, too, or several tiles side by side
(head_parts.py): a multiple of the least one.
"""

CONV_WIDTH = 4  # taps of the convolution
PART_WIDTHS = (16, 32, 64, 128)  # channels of a head that one program has
HEAD_DIM_MAX = 256
STATES = (16, 32, 64, 128, 256)
# B and C of a chunk in float32 are 256 KiB at twice that; a Hopper has 227 KiB of shared memory.
FLOAT32_STATE_MAX = 128
STATE_MAX = 16_384  # channels * state: what they remember lies in one multiprocessor
INNER_MAX = 32_768  # heads * head_dim: a row of the gated norm lies in one program's registers
DTYPES = ("bfloat16", "float32", "float64")  # of the large tensors; float64 in plain torch on any device


def unsupported(head_dim: int, state: int, heads: int, dtype: str = "bfloat16") -> str | None:
    """Why there is no kernel for such a block in this dtype, in words; None where there is one."""
    if head_dim % PART_WIDTHS[0] or not 0 < head_dim <= HEAD_DIM_MAX:
        return f"heads of {head_dim} channels: the kernels take multiples of {PART_WIDTHS[0]} up to {HEAD_DIM_MAX}"
    if state not in STATES:
        return f"a state of {state}: the kernels have tiles of {_listed(STATES)}"
    if dtype == "float32" and state > FLOAT32_STATE_MAX:
        return f"a state of {state} in float32: the kernels take {FLOAT32_STATE_MAX} at most, {state} in bfloat16"
    if heads * head_dim > INNER_MAX:
        return f"{heads} heads of {head_dim} are {heads * head_dim:,} channels: the norm takes {INNER_MAX:,} at most"
    return None


def part_width(head_dim: int, state: int) -> int:
    """The channels of a head that one program has: the widest tile that divides them, of which the state fits."""
    return max(width for width in PART_WIDTHS if head_dim % width == 0 and width * state <= STATE_MAX)


def _listed(sizes: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
