"""What a plan does on a cluster, by arithmetic: mix, epochs, bytes. No token is read.

    python -m loader.simulate PLAN --data s3://bucket/dolma --world-size 192 --tokens 2e12
    python -m loader.simulate PLAN --world-size 10000 --source-tokens web=1.2e12 --source-tokens code=3e11

The mix is that of the rows really served, by the code that serves them: the most rows by which any source is off its
weight at any prefix, overall and for the worst rank. It is measured over the first steps of each mix (--steps).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from bamba_data.errors import UserError
from bamba_data.terminal import console

from ..order.deviation import worst_deviation
from ..order.plan import MixPlan, load
from ..order.plan_entries import Header
from ..order.rank_split import ranks_of_rows
from ..order.stretches import Stretch
from ..packing.row_counts import LEAST_BLOCKS

BLOCK_TOKENS = 1 << 18
STORED_BYTES_A_TOKEN = 1.4
MAX_ROWS = 4_000_000  # of the order that a mix is measured over: arrays of 32 MB


@dataclass(frozen=True)
class Size:
    """What is known of a source: tokens of an epoch (delimiters counted), tokens and stored bytes of a block."""

    tokens: float
    block_tokens: float = BLOCK_TOKENS
    block_bytes: float = BLOCK_TOKENS * STORED_BYTES_A_TOKEN


UNKNOWN = Size(math.inf)


@dataclass(frozen=True)
class SourceUse:
    """Of one source over the run: its share of the rows, tokens, epochs, and blocks that one rank reads."""

    source: str
    share: float
    tokens: float
    epochs: float | None
    rank_blocks: float
    rank_bytes: float


@dataclass(frozen=True)
class MixError:
    """Rows off the weights, at the worst prefix."""

    first_row: int
    batch_rows: int
    steps: int
    overall: float
    worst_rank: float


@dataclass(frozen=True)
class Simulation:
    """`amplification`: tokens decoded by a rank for each that it trains on."""

    world_size: int
    steps: int
    tokens: float
    sources: list[SourceUse]
    mixes: list[MixError]
    rank_bytes: float
    cluster_bytes: float
    amplification: float


def simulate(plan: MixPlan, sizes: Mapping[str, Size], world_size: int, tokens: float, mix_steps: int) -> Simulation:
    """What a run does.

    Args:
        plan: The order.
        sizes: Of sources by name; the epochs of one that is not there are not known.
        world_size: Ranks.
        tokens: Of the whole run, over all ranks.
        mix_steps: Steps of each mix that it is measured over.
    """
    if not math.isfinite(tokens) or tokens < 1:
        raise UserError(f"a run of {tokens:g} tokens: a number from 1 on is needed")
    rows = math.ceil(tokens / plan.header.row_tokens)
    last = _row_after(plan.stretches, rows)
    used = []
    for name in sorted(plan.sources):
        served = plan.rows_served_before(last, name)
        size = sizes.get(name)
        taken = served * plan.header.row_tokens
        blocks = _blocks_read(served, size or UNKNOWN, plan.header, world_size)
        used.append(
            SourceUse(
                name,
                served / max(1, last),
                taken,
                taken / size.tokens if size else None,
                blocks,
                blocks * (size or UNKNOWN).block_bytes,
            )
        )
    mixes = [_mix_error(stretch, world_size, mix_steps) for stretch in plan.mixes]
    rank_bytes = sum(use.rank_bytes for use in used)
    decoded = world_size * sum(use.rank_blocks * sizes.get(use.source, UNKNOWN).block_tokens for use in used)
    steps = sum(
        -(-(min(stretch.end, last) - stretch.first_row) // stretch.batch_rows)
        for stretch in plan.stretches
        if stretch.first_row < last
    )
    return Simulation(
        world_size,
        steps,
        tokens,
        used,
        mixes,
        rank_bytes,
        rank_bytes * world_size,
        decoded / tokens,
    )


def _row_after(stretches: Sequence[Stretch], rows: int) -> int:
    """The global row at which so many rows were served."""
    for stretch in stretches:
        if rows <= stretch.end - stretch.first_row:
            return stretch.first_row + rows
        rows -= stretch.end - stretch.first_row
    raise UserError(f"{rows:,} rows more than there are: rows end at 2**62")


def _blocks_read(served: int, size: Size, header: Header, world_size: int) -> float:
    """Distinct (block, window) pairs that one rank's rows lie in: what it decodes if it shares with nobody.

    A rank's rows of a window are a random sample of it. A row lies in 1 + row / block blocks on average; if it is
    packed, in one group of them. Of u blocks, t draws touch u (1 - (1 - 1/u)^t): the occupancy problem (Feller, "An
    Introduction to Probability Theory", vol. 1, IV.2).
    """
    if not served:
        return 0.0
    row_tokens, group = header.row_tokens, 1
    if header.packing != "chunk":
        group = max(LEAST_BLOCKS, math.ceil(header.group_rows * row_tokens / size.block_tokens))
    unit_tokens = size.block_tokens * group
    window = min(header.window_rows, max(1.0, size.tokens / row_tokens))
    units = max(1.0, window * row_tokens / unit_tokens)
    touched = window / world_size * (1 + row_tokens / unit_tokens if group == 1 else 1)
    # expm1 and log1p: 1 - (1 - 1/u)^t loses its digits where t / u is small.
    distinct = units * -math.expm1(touched * math.log1p(-1 / units)) if units > 1 else min(1.0, touched)
    return distinct * group * served / window


def _mix_error(stretch: Stretch, world_size: int, steps: int) -> MixError:
    batch_rows = stretch.batch_rows
    steps = max(1, min(steps, MAX_ROWS // batch_rows, (stretch.end - stretch.first_row) // batch_rows))
    rows = np.arange(stretch.first_row, stretch.first_row + steps * batch_rows)
    sources = stretch.lattice.sources(rows)
    ranks = np.concatenate(
        [ranks_of_rows(int(first), batch_rows, world_size, stretch.lattice) for first in rows[::batch_rows]]
    )
    weights = stretch.lattice.weights
    return MixError(
        stretch.first_row,
        batch_rows,
        steps,
        worst_deviation(sources, weights),
        worst_deviation(sources, weights, ranks),
    )


def sizes_of(urls: Sequence[str], plan: MixPlan) -> dict[str, Size]:
    """From the manifests of datasets, which must be those that the plan was made for. What is in quarantine is read,
    and a plan that could not be served is refused as a loader would refuse it."""
    from bamba_data.format.dataset import open_dataset

    from ..cache.location import default_cache
    from ..global_order import planned_source
    from ..open_data import blocks_by_source, open_data

    for name, blocks in blocks_by_source(open_data(list(urls), default_cache())).items() if urls else ():
        if name in plan.sources:
            planned_source(plan, name, blocks)
    delimiters = len(plan.header.before) + len(plan.header.after)
    sizes = {}
    for url in urls:
        for source in open_dataset(url).manifest.sources:
            account, count = source.account, max(1, source.blocks)
            sizes[source.name] = Size(
                account.tokens + delimiters * account.kept, account.tokens / count, source.size_bytes / count
            )
    return sizes


def simulate_plan(
    plan: Path, world_size: int, tokens: float, data: Sequence[str], source_tokens: Sequence[str], steps: int
) -> Simulation:
    """`simulate` for a plan's file.

    Args:
        data: Datasets whose manifests say how large sources are.
        source_tokens: SOURCE=TOKENS, of sources that do not exist yet.
        steps: Of each mix, to measure it over.
    """
    loaded = load(plan)
    sizes = sizes_of(data, loaded)
    for text in source_tokens:
        name, equals, value = text.partition("=")
        try:
            size = float(value)
        except ValueError:
            raise UserError(f"--source-tokens {text}: expected SOURCE=TOKENS") from None
        if not math.isfinite(size) or size < 1:
            raise UserError(f"--source-tokens {text}: a number of tokens from 1 on is needed")
        sizes[name] = Size(size)
        if not equals or name not in loaded.sources:
            raise UserError(f"--source-tokens {text}: the plan's sources are {sorted(loaded.sources)}")
    return simulate(loaded, sizes, world_size, tokens, steps)


def print_simulation(result: Simulation, rank_tokens_per_second: float) -> None:
    """For people: a table of the sources, then what a rank and the cluster read, then how far each mix is off."""
    out = console()
    table = Table("source", "share", "tokens", "epochs", "blocks a rank reads", "GB a rank reads")
    for use in result.sources:
        epochs = f"{use.epochs:.3f}" if use.epochs is not None else "?"
        table.add_row(
            escape(use.source),
            f"{use.share:.3%}",
            f"{use.tokens / 1e9:,.2f} G",
            epochs,
            f"{use.rank_blocks:,.0f}",
            f"{use.rank_bytes / 1e9:,.2f}",
        )
    out.print(table)
    seconds = result.tokens / result.world_size / rank_tokens_per_second
    out.print(
        f"{result.steps:,} steps; a rank reads {result.rank_bytes / 1e9:,.1f} GB "
        f"({result.rank_bytes / seconds / 1e6:,.2f} MB/s at {rank_tokens_per_second:,.0f} tokens/s), "
        f"the cluster {result.cluster_bytes / 1e12:,.2f} TB, if no two ranks share a cache; "
        f"{result.amplification:,.1f} tokens decoded for one trained on"
    )
    for mix in result.mixes:
        out.print(
            f"mix from row {mix.first_row:,}, batches of {mix.batch_rows:,}: over {mix.steps:,} steps at any prefix at "
            f"most {mix.overall:.1f} rows off overall, {mix.worst_rank:.1f} on any of {result.world_size:,} ranks"
        )
