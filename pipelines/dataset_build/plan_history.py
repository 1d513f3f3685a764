"""What changed since the plan that was here before, so that nobody wonders why finished units are made again."""

from bamba_data.errors import CorruptManifest
from bamba_data.format import plan_records
from bamba_data.format.layout import PLANS, plan_path
from bamba_data.format.plan_records import Planned
from bamba_data.inspect.diff import differences
from bamba_data.recipe import BadInput
from bamba_data.storage.store import Store

from .plan import Plan

SHOWN = 6


def planned_as(plan: Plan, tokenizer_sha256: str, lock_digest: str) -> Planned:
    """What `plan` is made of."""
    recipe = plan.recipe.model_dump(mode="json", exclude={"network": True, "bad_input": set(BadInput.verdict_only)})
    units: dict[str, list[str]] = {}
    for unit in plan.units:
        units.setdefault(unit.source, []).append(unit.key)
    return Planned(recipe, tokenizer_sha256, lock_digest, units)


def remark(store: Store, plan: Plan, tokenizer_sha256: str, lock_digest: str) -> str | None:
    """Record what `plan` is made of. A line for people if the plan before it, here, was another."""
    mine, path = planned_as(plan, tokenizer_sha256, lock_digest), plan_path(plan.digest)
    before = sorted(store.list(PLANS), key=lambda entry: entry.modified)
    if is_recorded(store, plan):
        return None
    plan_records.save(store, plan.digest, mine)
    others = [entry.path for entry in before if entry.path != path]
    if not others or len(others) < len(before):  # the first here; or ours was there, of an old form or damaged
        return None
    try:
        newest = plan_records.read(store, others[-1])
    except (CorruptManifest, FileNotFoundError) as error:
        return f"this is another plan than the last one here, and what that was cannot be said: {error}"
    changes = [str(change) for change in differences("", newest.facts(), mine.facts())]
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return (
        "this is another plan than the last one here; units that it does not share are made anew. "
        f"Changed: {'; '.join(changes[:SHOWN])}{more}"
    )


def is_recorded(store: Store, plan: Plan) -> bool:
    """The record of the plan is there, whole, and with its units."""
    try:
        return plan_records.read(store, plan_path(plan.digest)).units is not None
    except (CorruptManifest, FileNotFoundError):
        return False
