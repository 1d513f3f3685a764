"""The weighted mean of checkpoints as a checkpoint of its own: `bamba-data model average A B --out RUN`.

    mean = (share of A) · A + (share of B) · B + …      in float64, in the order given, rounded once, to float32

Shares are the weights divided by their sum. One tensor is in memory at a time, with one parent's beside it. The same
parents and weights give the same bytes, however many ranks saved the parents. Moments of the optimizer are left out:
a mean of them belongs to no path that a run took.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bamba_data.canonical_json import digest, sha256
from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import Store, open_store

from ..distributed.consistency import differences, short
from ..observe.messages import rank_zero_logger
from . import commits, free_space
from .lease import Lease
from .locate import locate_checkpoint
from .reader import SavedCheckpoint, write
from .tokenizer import FILE, of_checkpoint

SLICE = 1 << 22  # values that are float64 twice at a time
MODEL = "model."


@dataclass(frozen=True, slots=True)
class Average:
    """What was made. `shares` add up to 1, in the order of `parents`; `is_new` is false where it was there already."""

    url: str
    step: int
    parents: list[str]
    shares: list[float]
    tensors: int
    size_bytes: int
    is_new: bool
    notes: list[str]


def average(checkpoints: Sequence[str], weights: Sequence[float] | None, out: str) -> Average:
    """Commit the weighted mean of `checkpoints` as the only checkpoint of a run at `out`.

    Args:
        checkpoints: Runs (their newest checkpoint), `RUN@STEP`, or checkpoints' own folders; two or more.
        weights: One each, above 0; all the same without.
        out: URL of a folder that holds no run. Where it holds this very mean, nothing is done.

    Raises:
        UserError: Two differ in the model's shape or settings, in tensors, tokenizer or delimiters; a weight is no
            weight; a value is not finite; a checkpoint is given twice; `out` is in use.
        CorruptCheckpoint: A parent's byte is not what was saved.
        NoRoom: The disk has no room for it.
    """
    shares = shares_of(weights, len(checkpoints))
    urls = [f"{store.url}/{name}" for store, name in map(locate_checkpoint, checkpoints)]
    if twice := {url for url in urls if urls.count(url) > 1}:
        raise UserError(f"{min(twice)} is given twice: give it once, with the weight of both")
    parents = [SavedCheckpoint(url) for url in urls]
    _check_same_model(parents)
    notes = _check_same_text(parents)
    about, more = _about(parents, shares)
    notes += more
    step = about["step"]
    store, name = open_store(f"{out}/checkpoints"), commits.folder_name(step, digest(about["averaged"])[:12])
    keys = [key for key in parents[0].index if key.startswith(MODEL)]
    size_bytes = 4 * sum(math.prod(parents[0].index[key]["shape"]) for key in keys)
    made = Average(f"{store.url}/{name}", step, urls, shares, len(keys), size_bytes, is_new=False, notes=notes)
    if any(folder.whole and folder.name == name for folder in commits.folders(store)):
        return made
    lease = Lease(store, rank_zero_logger())
    lease.take()
    try:
        commits.require_unused(store, out, lambda folder: folder.name == name, "Average into another folder")
        if error := free_space.no_room(store, size_bytes):
            raise error
        _copy_tokenizer(parents[0], store, name)
        write(store, name, _means(parents, shares, keys), about)
    finally:
        lease.release()
    return Average(made.url, step, urls, shares, len(keys), size_bytes, is_new=True, notes=notes)


def shares_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights divided by their sum; `UserError` where there are not `count`, or one is not above 0."""
    if count < 2:
        raise UserError("an average is of two checkpoints or more")
    if weights is None:
        weights = [1.0] * count
    if len(weights) != count:
        raise UserError(f"--weights has {len(weights)} numbers for {count} checkpoints: give one each, in their order")
    for weight in weights:
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(f"--weights: {weight:g} is no weight: give numbers above 0, and leave out what has none")
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def mean(parts: Iterator[tuple[float, Tensor]]) -> Tensor:
    """The sum of share · part in float64, in this order, rounded to float32 at the end. One part is held at a time."""
    total: Tensor | None = None
    shape: Sequence[int] = ()
    for share, part in parts:
        shape, flat = part.shape, part.reshape(-1)
        if total is None:
            total = torch.zeros(flat.numel(), dtype=torch.float64)
        for at in range(0, flat.numel(), SLICE):
            # A product and a sum, each rounded: fused, as some machines do it, the last bit would be the machine's.
            total[at : at + SLICE] += flat[at : at + SLICE].double().mul_(share)
        del part, flat
    assert total is not None
    return total.float().view(list(shape))


def _means(parents: Sequence[SavedCheckpoint], shares: Sequence[float], keys: Sequence[str]) -> Iterator[Any]:
    for key in keys:
        yield key, mean((share, _finite(parent, key)) for share, parent in zip(shares, parents, strict=True))


def _finite(parent: SavedCheckpoint, key: str) -> Tensor:
    value = parent.tensor(key)
    flat = value.reshape(-1)
    for at in range(0, flat.numel(), SLICE):
        if not bool(torch.isfinite(flat[at : at + SLICE]).all()):
            raise UserError(f"{_where(parent)}: {key} has values that are not finite: leave this checkpoint out")
    return value


def _where(parent: SavedCheckpoint) -> str:
    return f"{parent.store.url}/{parent.name}"


def _check_same_model(parents: Sequence[SavedCheckpoint]) -> None:
    """`UserError` names both checkpoints and the first difference."""
    first = parents[0]
    wanted = _shapes(first)
    settings = {"model": first.config.model_dump(mode="json")}
    for other in parents[1:]:
        for field, here, there in differences(settings, {"model": other.config.model_dump(mode="json")}):
            raise _other_model(other, first, field, there, here)
        shapes = _shapes(other)
        for key in sorted(wanted.keys() | shapes.keys()):
            if wanted.get(key) != shapes.get(key):
                raise _other_model(other, first, key, shapes.get(key, "not there"), wanted.get(key, "not there"))


def _other_model(other: SavedCheckpoint, first: SavedCheckpoint, field: str, there: Any, here: Any) -> UserError:
    return UserError(
        f"{_where(other)} is another model than {_where(first)}: its {field} is {short(there)}, there it is "
        f"{short(here)}. Only models of one shape and of the same settings can be averaged"
    )


def _shapes(parent: SavedCheckpoint) -> dict[str, list[int]]:
    return {key: entry["shape"] for key, entry in parent.index.items() if key.startswith(MODEL)}


def _check_same_text(parents: Sequence[SavedCheckpoint]) -> list[str]:
    """That all read their tokens alike; what could not be looked at, in words."""
    first, *others = parents
    known = {_where(parent): tokenizer_of(parent) for parent in parents}
    notes = []
    for other in others:
        here, there = known[_where(first)], known[_where(other)]
        if here and there and here != there:
            raise UserError(
                f"{_where(other)} has another tokenizer (sha256 {there[:12]}…) than {_where(first)} ({here[:12]}…): "
                "their ids mean different things, and a mean of them nothing"
            )
        ends = [delimiters(parent) for parent in (first, other)]
        if all(ends) and ends[0] != ends[1]:
            raise UserError(
                f"in the training of {_where(other)} documents stood between {ends[1]}, in that of {_where(first)} "
                f"between {ends[0]} (ids before, ids after): only models that learned the same ends can be averaged"
            )
    if unknown := [where for where, value in known.items() if value is None]:
        notes.append(f"no tokenizer to compare: {', '.join(unknown)} has none that can be read here")
    return notes


def tokenizer_of(parent: SavedCheckpoint) -> str | None:
    """The sha256 of its tokenizer.json; None where it lies in a dataset that is not at hand, or there is none."""
    try:
        return sha256(of_checkpoint(parent).data)
    except CorruptCheckpoint:
        raise
    except UserError:
        return None


def delimiters(parent: SavedCheckpoint) -> tuple[list[int], list[int]] | None:
    """The ids that the loader put before and after each document; None where no plan says it."""
    plan = _plan(parent)
    return None if plan is None else (plan["header"]["before"], plan["header"]["after"])


def _about(parents: Sequence[SavedCheckpoint], shares: Sequence[float]) -> tuple[dict[str, Any], list[str]]:
    """What is committed: of the recipe and the data what the first says, and where all came from; and notes."""
    first = parents[0]
    about: dict[str, Any] = {"step": max(parent.commit["step"] for parent in parents), "world_size": 1}
    about |= {key: first.commit[key] for key in ("recipe", "hf", "feed") if key in first.commit}
    about["averaged"] = [
        {
            "share": share,
            "checkpoint": digest(parent.commit),
            "name": parent.name,
            "step": parent.commit["step"],
            "run": parent.commit.get("run"),
            "tokens": parent.commit.get("tokens") or {},
        }
        for share, parent in zip(shares, parents, strict=True)
    ]
    notes = []
    plans = [plan for parent in parents if (plan := _plan(parent)) is not None]
    if plans and _hold_out_differs(plans):
        # The first one's plan would call documents held out that another parent learned from.
        header = plans[0]["header"]
        about["feed"] = {"delimiters": {key: header[key] for key in ("before", "after")}}
        notes.append("the parents held out different documents: evaluate takes --text of it, not --data")
    return about, notes


def _plan(parent: SavedCheckpoint) -> dict[str, Any] | None:
    plan: dict[str, Any] | None = (parent.commit.get("feed") or {}).get("plan")
    return plan


def _hold_out_differs(plans: Sequence[dict[str, Any]]) -> bool:
    """Whether some plan may serve what the first one holds out: another share, or another content of a source."""
    first, *others = plans
    return any(
        other["header"].get("holdout_ppm") != first["header"].get("holdout_ppm")
        or any(first["sources"].get(name, identity) != identity for name, identity in other["sources"].items())
        for other in others
    )


def _copy_tokenizer(parent: SavedCheckpoint, store: Store, name: str) -> None:
    """Of an imported model it lies beside the tensors; of a run it is the dataset's."""
    if (parent.commit.get("hf") or {}).get("tokenizer_sha256"):
        store.put(f"{name}/{FILE}", of_checkpoint(parent).data)
