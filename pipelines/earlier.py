"""What changed since the plan that was here before, so that nobody wonders why finished units are made again."""

from bamba_data import canonical
from bamba_data.diff import differences
from bamba_data.recipe import BadInput
from bamba_data.store import Store
from pipelines.plan import Plan

FOLDER = "_bamba/plans"
MAX_BYTES = 64 << 20
SHOWN = 6


def remark(store: Store, plan: Plan, tokenizer_sha256: str, lock_digest: str) -> str | None:
    """Record what `plan` is made of. A line for people if the plan before it, here, was another."""
    recipe = plan.recipe.model_dump(mode="json", exclude={"network": True, "bad_input": set(BadInput.verdict_only)})
    mine = {"recipe": recipe, "tokenizer": tokenizer_sha256, "lock": lock_digest}
    path = f"{FOLDER}/{plan.digest}.json"
    before = sorted(store.list(FOLDER), key=lambda entry: entry.modified)
    if any(entry.path == path for entry in before):
        return None
    store.put(path, canonical.dumps(mine))
    if not before:
        return None
    newest = before[-1].path
    other = canonical.loads(store.read(newest), newest, MAX_BYTES)
    changes = [str(change) for change in differences("", other, mine)]
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return (
        "this is another plan than the last one here; units that it does not share are made anew. "
        f"Changed: {'; '.join(changes[:SHOWN])}{more}"
    )
