"""What a build planned, as it lies in the store: which units, of what; and which plan a published manifest came of.

    _bamba/plans/<digest>.json            recipe, tokenizer, lock and the keys of the units of a plan
    _bamba/built/<manifest>.json          the plan of the manifest of that digest, written before it is published

So a sweep knows which units' records belong to a version without reading one of them, and the next build can say what
changed. Both are sealed. Plans of before 2026-11-28 are not, and name no units.
"""

from dataclasses import dataclass
from typing import Any

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest
from bamba_data.records import seal, unseal
from bamba_data.storage.store import Store

FOLDER = "_bamba/plans"
FORMAT = "bamba-plan/2"
MAX_BYTES = 256 << 20
BUILT_FOLDER = "_bamba/built"
BUILT_FORMAT = "bamba-built/1"
MAX_BUILT_BYTES = 1 << 16


@dataclass(frozen=True)
class Planned:
    """`units` has the keys of the units by source; None in the records of before that did not say."""

    recipe: Any
    tokenizer: str
    lock: str
    units: dict[str, list[str]] | None

    def facts(self) -> dict[str, Any]:
        """What makes it this plan, for people to compare."""
        return {"recipe": self.recipe, "tokenizer": self.tokenizer, "lock": self.lock}


def plan_path(digest: str) -> str:
    return f"{FOLDER}/{digest}.json"


def built_path(manifest: str) -> str:
    return f"{BUILT_FOLDER}/{manifest}.json"


def save(store: Store, digest: str, planned: Planned) -> None:
    store.put(plan_path(digest), seal({"format": FORMAT, **planned.facts(), "units": planned.units}))


def read(store: Store, path: str) -> Planned:
    """Raises CorruptManifest for one that is damaged, FileNotFoundError if there is none."""
    data = store.read_range(path, 0, MAX_BYTES + 1)
    raw = canonical_json.loads(data, path, MAX_BYTES)
    if isinstance(raw, dict) and raw.keys() == {"recipe", "tokenizer", "lock"}:  # as it was before they were sealed
        return Planned(raw["recipe"], str(raw["tokenizer"]), str(raw["lock"]), None)
    fields = unseal(data, path, MAX_BYTES)
    if fields.get("format") != FORMAT:
        raise CorruptManifest(path, f"is of format {fields.get('format')!r}, not {FORMAT}")
    return Planned(fields["recipe"], fields["tokenizer"], fields["lock"], fields["units"])


def save_built(store: Store, manifest: str, plan: str) -> None:
    store.put(built_path(manifest), seal({"format": BUILT_FORMAT, "manifest": manifest, "plan": plan}))


def plan_of(store: Store, manifest: str) -> str | None:
    """The digest of the plan that a manifest came of; None where nobody wrote it down."""
    path = built_path(manifest)
    try:
        fields = unseal(store.read_range(path, 0, MAX_BUILT_BYTES + 1), path, MAX_BUILT_BYTES)
    except FileNotFoundError:
        return None
    if fields.get("format") != BUILT_FORMAT or fields.get("manifest") != manifest:
        raise CorruptManifest(path, f"is not the {BUILT_FORMAT} of its manifest")
    return str(fields["plan"])
