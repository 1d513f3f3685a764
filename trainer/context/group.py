"""The ranks that share rows: neighbours by rank, in the order of their parts.

Of W ranks with C to a row, rank r has part r mod C of the rows of data rank r // C. So those that speak to each other
in every layer stand on one host, where its GPUs are a multiple of C.
"""

from typing import NamedTuple

from bamba_data.errors import UserError


class ContextGroup(NamedTuple):
    """name: of the process group, empty for one rank alone; rank: which part is held here; ranks: how many there
    are."""

    name: str = ""
    rank: int = 0
    ranks: int = 1


ALONE = ContextGroup()


def check_ranks(world_size: int, context_ranks: int) -> None:
    """Raises UserError where `context_ranks` do not divide the ranks of a run."""
    if world_size % context_ranks:
        near = [ranks for ranks in range(1, world_size + 1) if not world_size % ranks]
        raise UserError(
            f"compute.context_ranks: {world_size} ranks are no whole number of groups of {context_ranks}: start a "
            f"multiple of {context_ranks} ranks, or set it to one of {', '.join(map(str, near))}"
        )
