"""`build_loader`: data and two small values in, a loader out.

    loader = build_loader(url, OrderSpec(weights={"web": 3, "code": 1}, row_tokens=4096, batch_rows=384, seed=7),
                          Reading(rank=rank, world_size=world_size))

OrderSpec decides which row comes at which place; Reading only who reads which, how far and how fast. Every field of
both may also be given by its name alone: `build_loader(url, seed=7, rank=rank)`. What is given twice is refused.
"""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from bamba_data.errors import UserError

from .cache.location import default_cache
from .dataloader import Loader
from .global_order import Order
from .open_data import Data, blocks_by_source, open_data
from .order.plan import MixPlan, read_plan
from .order_spec import OrderSpec
from .reading import Reading
from .sources.descent import with_ancestors
from .sources.every_document import for_holdout
from .sources.holdout import holdout_order
from .token_dataset import Transform

Weights = Mapping[str, float | int | str]
Value = TypeVar("Value", OrderSpec, Reading)

#: The arguments of before 0.2 by position, after `data`.
_POSITIONS = ("weights", "row_tokens", "batch_rows", "seed", "rank", "world_size", "num_workers")
_ORDER_FIELDS = tuple(field.name for field in fields(OrderSpec))
_READING_FIELDS = tuple(field.name for field in fields(Reading))


def build_loader(
    data: Data | Path | Sequence[Data | Path],
    order: OrderSpec | Weights | None = None,
    reading: Reading | None = None,
    *positional: Any,
    plan: MixPlan | Path | str | bytes | Mapping[str, Any] | None = None,
    split: str = "train",
    transform: Transform | None = None,
    **named: Any,
) -> Loader:
    """A loader of this rank's rows of every batch.

    Args:
        data: URL of a dataset or a TextSource, or several, whose sources all have different names.
        order: What decides the order; weights alone are an OrderSpec of them.
        reading: What only decides who reads when.
        positional: The arguments of before 0.2 by position, deprecated.
        plan: The order as a MixPlan, its file or its JSON. What `order` says must then be what the plan says.
        split: "train"; or "holdout", the held-out documents once, in the order stored.
        transform: A function of a batch, applied in the caller's thread.
        named: Fields of OrderSpec and Reading by name, instead of the two values.

    Raises:
        UserError: An argument is unknown, given twice or cannot be, or contradicts the plan; it names both sides.
    """
    if split not in ("train", "holdout"):
        raise UserError(f"split is {split!r}: it can be 'train' or 'holdout'")
    spec, reading = _values(order, reading, positional, named)
    folder = reading.folder or default_cache()
    reading = replace(reading, cache=folder)
    given = None if plan is None else read_plan(plan)
    opened = open_data(data, folder)
    sources = for_holdout(blocks_by_source(opened), given.header.holdout_ppm if given else spec.holdout_ppm)
    if given is not None:
        sources = with_ancestors(given, sources, folder)
        spec.check_agrees(given, opened)
    else:
        tokens = {name: int(blocks.tokens.sum()) for name, blocks in sources.items()}
        identities = {name: blocks.identity for name, blocks in sources.items()}
    # With a plan that is given, `load_state_dict` goes on under that one; else under the state's, if it adds to this.
    global_order = Order(given or spec.plan(opened, tokens, identities), sources, folder)
    if split == "holdout":
        global_order = holdout_order(global_order)
        reading = replace(reading, max_epochs=1, at_end="all", on_end=reading.on_end or "again")
    return Loader(global_order, reading, transform, plan_is_given=given is not None)


def _values(order: Any, reading: Any, positional: Sequence[Any], named: dict[str, Any]) -> tuple[OrderSpec, Reading]:
    """Every way to give them, as the two values."""
    if positional or not isinstance(reading, Reading | None):
        order, reading, named = _by_name((order, reading, *positional), named)
    if isinstance(order, Mapping):
        if "weights" in named:
            raise UserError(f"weights are given twice: {order!r:.80} and {named['weights']!r:.80}")
        order, named = None, named | {"weights": order}
    elif isinstance(order, MixPlan):
        raise UserError("order is a MixPlan: give it as plan=, where it is the whole order")
    elif not isinstance(order, OrderSpec | None):
        raise UserError(f"order is {order!r:.80}: it can be an OrderSpec, or the weights of one by source")
    known = (*_ORDER_FIELDS, *_READING_FIELDS)
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"build_loader has no argument {name!r}: {hint}")
    return _merged("order", OrderSpec, order, named, _ORDER_FIELDS), _merged(
        "reading", Reading, reading, named, _READING_FIELDS
    )


def _by_name(positional: Sequence[Any], named: dict[str, Any]) -> tuple[OrderSpec | None, None, dict[str, Any]]:
    """The arguments of before 0.2: `build_loader(data, weights, row_tokens, batch_rows, seed, rank, …)`."""
    if isinstance(positional[0], OrderSpec):
        raise UserError(f"reading is {positional[1]!r:.80}: it must be a Reading")
    if len(positional) > len(_POSITIONS):
        raise UserError(f"build_loader takes data, order and reading by position, not {len(positional) + 1} arguments")
    warnings.warn(
        f"arguments of build_loader by position ({', '.join(_POSITIONS[: len(positional)])}): give them by name, or "
        "as OrderSpec(…) and Reading(…)",
        DeprecationWarning,
        stacklevel=4,
    )
    by_position = dict(zip(_POSITIONS, positional, strict=False))
    if twice := sorted(set(by_position) & set(named)):
        name = twice[0]
        raise UserError(f"{name} is given twice: {by_position[name]!r:.80} and {named[name]!r:.80}")
    return None, None, by_position | named


def _merged(argument: str, kind: type[Value], value: Value | None, named: dict[str, Any], own: Sequence[str]) -> Value:
    """The value, or the one that its fields by name make: not some of each, where one would win in silence."""
    mine = {name: given for name, given in named.items() if name in own}
    if value is None:
        return kind(**mine)
    for name, given in mine.items():
        raise UserError(
            f"{name} is given twice: {given!r:.80} by name, and {getattr(value, name)!r:.80} in {argument}, which is "
            f"given as well. Put it into {kind.__name__}(…)"
        )
    return value
