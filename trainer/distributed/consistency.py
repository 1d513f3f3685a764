"""What must be the same: on all ranks before the first step, and between a checkpoint and the recipe that goes on."""

import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from pydantic import ValidationError

from bamba_data.canonical_json import digest
from bamba_data.errors import OtherModel, UserError

from ..checkpoint.commits import model_alone
from ..config import Recipe

SHOWN = 4  # differences, at most
#: Fields of the model that its tensors do not depend on.
NO_SHAPE = {"rotary_fraction", "rotary_base", "rotary_factors", "rotary_scale", "mamba_norm_groups", "norm_eps"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 72


class RowEnds(NamedTuple):
    """Of a rank's tokens of a row: how many, and the document and the position in it of the first and the last."""

    tokens: int
    first_document: int
    first_position: int
    last_document: int
    last_position: int


def gathered(mine: Any) -> list[Any]:
    """What every rank gives, by rank; a collective call."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, mine)
    return values


def from_rank_zero(value: Any, group: Any = None) -> Any:
    """What rank 0 gives; a collective call of the ranks of `group`, by default of all."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def require_agreement(mine: dict[str, Any], way_out: str) -> None:
    """A collective call: that all ranks hold the same plain JSON.

    Raises:
        UserError: On all ranks, naming the fields in which some rank is not like rank 0, and the `way_out`.
    """
    # Digests first: a plan of thousands of entries is sent only where there is something to name.
    if len(set(gathered(digest(mine)))) == 1:
        return
    everyone = gathered(mine)
    for rank, theirs in enumerate(everyone):
        if differing := differences(everyone[0], theirs)[:SHOWN]:
            what = "; ".join(
                f"{field} is {short(other)}, on rank 0 {short(first)}" for field, first, other in differing
            )
            raise UserError(f"rank {rank} differs from rank 0: {what}. {way_out}")


def require_parts(rows: Sequence[int], ends: Sequence[RowEnds], part_tokens: int, context_ranks: int) -> None:
    """A collective call: that ranks which share rows have the same ones, each as a part of its own.

    Args:
        rows: The numbers of this rank's rows of a batch, by place.
        ends: Of each of them.
        part_tokens: What a part must have.
        context_ranks: Neighbours that share rows.

    Raises:
        UserError: On all ranks, naming two neighbours, the row, and what differs.
    """
    everyone = gathered((list(rows), [tuple(one) for one in ends]))
    way_out = "The feed must give all ranks of a context group the same rows, cut (trainer/data/protocol.py)"
    for rank, (numbers, found) in enumerate(everyone):
        for number, one in zip(numbers, map(RowEnds._make, found), strict=True):
            if one.tokens != part_tokens:
                raise UserError(
                    f"rank {rank} has {one.tokens:,} tokens of row {number}: its part has {part_tokens:,}. {way_out}"
                )
        if rank % context_ranks == 0:
            continue
        left_numbers, left_found = everyone[rank - 1]
        if numbers != left_numbers:
            here, there = short(numbers), short(left_numbers)
            raise UserError(f"ranks {rank - 1} and {rank} share rows, and have rows {there} and {here}. {way_out}")
        for number, left, right in zip(numbers, map(RowEnds._make, left_found), map(RowEnds._make, found), strict=True):
            goes_on = right.first_document == left.last_document
            if right.first_document < left.last_document or (
                number >= 0 and goes_on and right.first_position != left.last_position + 1
            ):
                raise UserError(
                    f"ranks {rank - 1} and {rank} share row {number}, which goes from position {left.last_position} of "
                    f"document {left.last_document} to position {right.first_position} of document "
                    f"{right.first_document}: these are no neighbouring parts. {way_out}"
                )


def short(value: Any) -> str:
    """Its repr, without the middle where that is long: a plan has thousands of entries."""
    return _SHORT.repr(value)


def differences(then: dict[str, Any], now: dict[str, Any], at: str = "") -> list[tuple[str, Any, Any]]:
    """Every field that differs, with both values."""
    differing: list[tuple[str, Any, Any]] = []
    for key in {**then, **now}:
        old, new = then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            differing += differences(old, new, f"{at}{key}.")
        elif old != new:
            differing.append((f"{at}{key}", old, new))
    return differing


def describe_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{field} was {old!r}, is {new!r}" for field, old, new in differences(then, now)]


def describe_shape_changes(then: Recipe, now: Recipe) -> list[str]:
    """What makes the one model's tensors, or what they mean, another's."""
    old, new = (recipe.model.model_dump(mode="json", exclude=NO_SHAPE) for recipe in (then, now))
    return describe_changes({"model": old}, {"model": new})


def saved_recipe(commit: dict[str, Any]) -> Recipe:
    """The recipe in a checkpoint. A field that is new since then has its default, which is what it did before."""
    if kind := model_alone(commit):
        raise UserError(f"the checkpoint here is {kind}, no run: begin one in another folder by start_from")
    try:
        return Recipe.model_validate(commit["recipe"])
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"the checkpoints here are of a recipe that this version does not know ({field}): use the version that "
            "saved them, or begin a run in another folder with their model (start_from)"
        ) from None


def accept_recipe(commit: dict[str, Any], recipe: Recipe, *, accept_changes: bool) -> list[str]:
    """Every change from the recipe of a checkpoint to this one, in words that a later checkpoint holds.

    Raises:
        OtherModel: The tensors are of another shape: no choice makes that go on.
        UserError: What is learned changed, and `accept_changes` is not given.
    """
    saved = saved_recipe(commit)
    if shape := describe_shape_changes(saved, recipe):
        raise OtherModel(f"the checkpoint of step {commit['step']} here", "; ".join(shape))
    learned = describe_changes(saved.learned(), recipe.learned())
    if learned and not accept_changes:
        raise UserError(
            f"the checkpoints here are of another recipe ({'; '.join(learned)}). Use the old values, another "
            "folder (with start_from, to begin with this model), or --accept-changes to go on with the new ones"
        )
    changes = describe_changes(saved.model_dump(mode="json"), recipe.model_dump(mode="json"))
    return [f"after step {commit['step']}: {change}" for change in changes]
