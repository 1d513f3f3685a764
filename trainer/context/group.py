"""The ranks that share rows: neighbours by rank, in the order of their parts.

Of W ranks with C to a row, rank r has part r mod C of the rows of data rank r // C. So those that speak to each other
in every layer stand on one host, where its GPUs are a multiple of C.
"""

from typing import NamedTuple

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH


class ContextGroup(NamedTuple):
    """name: of the process group, empty for one rank alone; rank: which part is held here; ranks: how many there
    are."""

    name: str = ""
    rank: int = 0
    ranks: int = 1


ALONE = ContextGroup()


def check_ranks(world_size: int, context_ranks: int, said: str = "compute.context_ranks") -> None:
    """Raises UserError where `context_ranks`, which `said` says, do not divide the ranks that were started."""
    if world_size % context_ranks:
        near = [str(ranks) for ranks in range(1, world_size + 1) if not world_size % ranks]
        raise UserError(
            f"{said}: {no_groups(world_size, context_ranks)}: start a multiple of {context_ranks} ranks by torchrun, "
            f"or set it to {'one of ' if near[1:] else ''}{', '.join(near)}"
        )


def no_groups(ranks: int, of: int) -> str:
    """What to say of ranks that groups of so many do not use up."""
    return f"{ranks} {'rank is' if ranks == 1 else 'ranks are'} no whole number of groups of {of}"


def why_no_parts(row_tokens: int, context_ranks: int, rows: str) -> str | None:
    """What speaks against equal parts of rows of so many tokens, and the way out; None where nothing does.

    Args:
        rows: What says how long they are, as the user knows it.
    """
    part, left = divmod(row_tokens, context_ranks)
    if left:
        return (
            f"{context_ranks} ranks cannot share rows of {rows} {row_tokens:,} in equal parts: take a divisor of "
            f"{row_tokens:,}, or rows of {part * context_ranks or context_ranks:,} or {(part + 1) * context_ranks:,} "
            "tokens"
        )
    if context_ranks > 1 and part < CONV_WIDTH - 1:
        return (
            f"{context_ranks} ranks share rows of {rows} {row_tokens:,}, {part} tokens each: the convolution reaches "
            f"back over {CONV_WIDTH - 1}. Take fewer ranks, or longer rows"
        )
    return None


def part_of_rows(row_tokens: int, context: ContextGroup) -> slice:
    """The tokens that are held here of rows of so many. Raises UserError where they have no equal parts."""
    if why := why_no_parts(row_tokens, context.ranks, "row_tokens"):
        raise UserError(f"--context-ranks: {why}")
    tokens = row_tokens // context.ranks
    return slice(context.rank * tokens, (context.rank + 1) * tokens)
