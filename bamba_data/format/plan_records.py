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
from bamba_data.format.layout import built_path, plan_path
from bamba_data.records import Record
from bamba_data.storage.store import Store


@dataclass(frozen=True)
class Planned(Record):
    """`units` has the keys of the units by source; None in the records of before that did not say."""

    FORMAT = "bamba-plan/2"
    MAX_BYTES = 256 << 20

    recipe: Any
    tokenizer: str
    lock: str
    units: dict[str, list[str]] | None

    def facts(self) -> dict[str, Any]:
        """What makes it this plan, for people to compare."""
        return {"recipe": self.recipe, "tokenizer": self.tokenizer, "lock": self.lock}


@dataclass(frozen=True)
class Built(Record):
    """`plan` is the digest of the plan that the manifest of the digest `manifest` came of."""

    FORMAT = "bamba-built/1"

    manifest: str
    plan: str


def save(store: Store, digest: str, planned: Planned) -> None:
    store.put(plan_path(digest), planned.sealed())


def read(store: Store, path: str) -> Planned:
    """Raises CorruptManifest for one that is damaged, FileNotFoundError if there is none."""
    data = store.read_range(path, 0, Planned.MAX_BYTES + 1)
    raw = canonical_json.loads(data, path, Planned.MAX_BYTES)
    if isinstance(raw, dict) and raw.keys() == {"recipe", "tokenizer", "lock"}:  # as it was before they were sealed
        return Planned(raw["recipe"], str(raw["tokenizer"]), str(raw["lock"]), None)
    return Planned.parse(data, path)


def save_built(store: Store, manifest: str, plan: str) -> None:
    store.put(built_path(manifest), Built(manifest, plan).sealed())


def plan_of(store: Store, manifest: str) -> str | None:
    """The digest of the plan that a manifest came of; None where nobody wrote it down."""
    path = built_path(manifest)
    try:
        built = Built.read(store, path)
    except FileNotFoundError:
        return None
    if built.manifest != manifest:
        raise CorruptManifest(path, f"is of another manifest, {built.manifest[:16]}")
    return built.plan
