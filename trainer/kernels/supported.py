"""Which Mamba2 blocks there are kernels for, stated once: a model's configuration, each call of the op and the tests
read it here. The plain torch form takes no more than a GPU, so that what trains on a CPU trains on a GPU.

Head width and state are the tiles of the tensor cores: powers of two. A width between would leave channels out.
"""

CONV_WIDTH = 4  # taps of the convolution
HEAD_DIMS = (16, 32, 64, 128)
STATES = (16, 32, 64, 128, 256)
# B and C of a chunk in float32 are 256 KiB at twice that; a Hopper has 227 KiB of shared memory.
FLOAT32_STATE_MAX = 128
STATE_MAX = 16_384  # head_dim * state: what one head remembers lies in one multiprocessor
INNER_MAX = 32_768  # heads * head_dim: a row of the gated norm lies in one program's registers
DTYPES = ("bfloat16", "float32", "float64")  # of the large tensors; float64 in plain torch on any device


def unsupported(head_dim: int, state: int, heads: int, dtype: str = "bfloat16") -> str | None:
    """Why there is no kernel for such a block in this dtype, in words; None where there is one."""
    if head_dim not in HEAD_DIMS:
        return f"heads of {head_dim} channels: the kernels have tiles of {_listed(HEAD_DIMS)}"
    if state not in STATES:
        return f"a state of {state}: the kernels have tiles of {_listed(STATES)}"
    if dtype == "float32" and state > FLOAT32_STATE_MAX:
        return f"a state of {state} in float32: the kernels take {FLOAT32_STATE_MAX} at most, {state} in bfloat16"
    if head_dim * state > STATE_MAX:
        numbers = f"{head_dim * state:,} numbers, {STATE_MAX:,} at most fit"
        return f"heads of {head_dim} channels with a state of {state}: {numbers}"
    if heads * head_dim > INNER_MAX:
        return f"{heads} heads of {head_dim} are {heads * head_dim:,} channels: the norm takes {INNER_MAX:,} at most"
    return None


def _listed(sizes: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
