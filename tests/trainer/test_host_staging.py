"""The copy of the state on the host takes little more memory than the state."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.host_staging import ALIGNED_BYTES, SLAB_BYTES, HostStaging, packed
from trainer.config import load_recipe
from trainer.distributed.fsdp import World
from trainer.model.bamba import Bamba


@given(st.lists(st.integers(0, 6 * 2**30), max_size=40))
def test_buffers_lie_apart_each_in_a_slab(sizes: list[int]) -> None:
    named = {str(number): size for number, size in enumerate(sizes)}
    slabs, places = packed(named)
    assert places.keys() == named.keys()
    taken: dict[int, list[tuple[int, int]]] = {}
    for name, (slab, first) in places.items():
        assert first % ALIGNED_BYTES == 0
        assert first + named[name] <= slabs[slab]
        taken.setdefault(slab, []).append((first, first + named[name]))
    for slab, spans in taken.items():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert slabs[slab] <= SLAB_BYTES or len([span for span in spans if span[1] > span[0]]) == 1


def as_pinned(size: int) -> int:
    """What torch takes of the host for a piece of pinned memory."""
    return 1 << max(size - 1, 0).bit_length()


def test_half_of_bamba_9b_takes_a_twentieth_more_than_it_is_where_one_by_one_took_a_quarter() -> None:
    with torch.device("meta"):
        model = Bamba(load_recipe("bamba-9b-phase1").model)
    halves = {name: 4 * parameter.numel() // 2 for name, parameter in model.named_parameters()}
    sizes = {f"{kind}.{name}": size for kind in ("model", "first", "second") for name, size in halves.items()}
    total = sum(sizes.values())
    assert sum(map(as_pinned, sizes.values())) > 1.25 * total
    assert sum(map(as_pinned, packed(sizes)[0])) < 1.05 * total


def test_a_copy_is_the_state_of_any_dtype_and_shape(world: World) -> None:
    state = {"a": torch.arange(7.0), "b": torch.ones(3, 5).bfloat16(), "c": torch.tensor(4), "d": torch.empty(0)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    staging = HostStaging(world)
    copy = staging.copy(state)
    staging.settle()
    for tensor in state.values():
        tensor.zero_()  # as an update would
    assert copy.keys() == before.keys()
    for name, tensor in before.items():
        assert copy[name].dtype == tensor.dtype
        assert torch.equal(copy[name], tensor)
