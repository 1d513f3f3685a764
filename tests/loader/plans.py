"""Small sources in memory and plans over them, drawn at random, and what the ranks of a world make of a batch."""

import random
from typing import Any

from loader.collate import FIELDS
from loader.global_order import Order
from loader.order.plan import MixPlan
from loader.order.stretches import Batch
from loader.packing.segments import SegmentCache
from loader.reading import Share
from loader.row_reader import RowReader
from tests.loader.oracle import MemoryBlocks, Row

EOS, BOS = 60_000, 60_001


def source(dice: random.Random, name: str, blocks: int, documents: int, longest: int, heldout: int = 0) -> MemoryBlocks:
    """Ids tell every token of the source apart, up to 50,000."""
    made, number = [], 0
    for _ in range(blocks):
        block = []
        for _ in range(dice.randint(1, documents)):
            length = dice.randint(0, longest)
            block.append([(number + n) % 50_000 for n in range(length)])
            number += length
        made.append(block)
    made[0][0] = made[0][0] or [7]
    places = [(b, d) for b, block in enumerate(made) for d in range(len(block)) if (b, d) != (0, 0)]
    return MemoryBlocks(name, made, tuple(dice.sample(places, min(heldout, len(places)))))


def plan_of(sources: dict[str, MemoryBlocks], weights: dict[str, int], batch_rows: int, **header: Any) -> MixPlan:
    fields = {"seed": 5, "row_tokens": 16, "before": [], "after": [EOS], "window_rows": 7} | header
    return MixPlan.create(weights, {name: one.identity for name, one in sources.items()}, batch_rows, **fields)


def reader(order: Order, rank: int = 0, world_size: int = 1, pad: bool = False, **more: Any) -> RowReader:
    return RowReader(order, SegmentCache(None, 0), Share(rank, world_size, pad), FIELDS, ahead_rows=1, **more)


def served(order: Order, batch: Batch, world_size: int) -> dict[int, Row]:
    """The rows that all ranks of a world make of a batch."""
    found: dict[int, Row] = {}
    for rank in range(world_size):
        arrays = reader(order, rank, world_size).read(batch)
        names = list(order.plan.source_names)
        for place, g in enumerate(arrays["row"].tolist()):
            assert g not in found
            columns = [arrays[name][place].tolist() for name in ("input_ids", "labels", "position_ids", "seq_idx")]
            found[g] = Row(names[arrays["source"][place]], *columns, [])
    return found


def random_plan(dice: random.Random, sources: dict[str, MemoryBlocks]) -> MixPlan:
    """A plan with a few mixes, batch sizes, skips and quarantines."""
    names = sorted(sources)
    delimiters = dice.choice([([], [EOS]), ([BOS], []), ([BOS], [EOS]), ([], [])])
    first = {name: dice.randint(1, 9) for name in dice.sample(names, dice.randint(1, len(names)))}
    plan = plan_of(
        sources,
        first,
        dice.randint(1, 12),
        seed=dice.randrange(2**40),
        row_tokens=dice.choice([1, 2, 5, 16, 33]),
        before=delimiters[0],
        after=delimiters[1],
        window_rows=dice.choice([1, 3, 8, 1000]),
    )
    identities = {name: one.identity for name, one in sources.items()}
    row, batch_rows = 0, plan.header.step_rows
    for _ in range(dice.randint(0, 5)):
        row += dice.randint(0, 4) * batch_rows
        kind = dice.choice(["mix", "batch", "skip", "quarantine", "document"])
        if kind == "mix":
            weights = {name: dice.randint(0, 9) for name in names}
            plan = plan.with_mix(row, weights | {dice.choice(names): 3}, sources=identities)
        elif kind == "batch":
            batch_rows = dice.randint(1, 12)
            plan = plan.with_mix(row, batch_rows=batch_rows)
        elif kind == "skip":
            plan = plan.with_skip(row, batch_rows * dice.randint(1, 3))
            row += plan.entries[-1].rows  # type: ignore[union-attr]
        else:
            name = dice.choice(sorted(plan.sources))
            block = dice.randrange(len(sources[name].blocks))
            document = dice.randrange(len(sources[name].blocks[block])) if kind == "document" else None
            if (name, block, document) == (name, 0, None) or document == 0:
                continue  # so that every source keeps a token
            plan = plan.with_quarantine(row, name, block, document)
    return plan


def best_fit(plan: MixPlan, dice: random.Random) -> MixPlan:
    """The same plan, packed."""
    header = plan.header.model_copy(update={"packing": "best-fit", "group_rows": dice.choice([1, 3, 20])})
    return plan.model_copy(update={"header": header})


def gone(order: Order) -> dict[str, Any]:
    return {name: order.source(name).left_out_from for name in order.plan.sources}
