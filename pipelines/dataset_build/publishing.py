"""Publishing comes after verifying: what a manifest names is looked at as a reader would, before it is a version."""

from bamba_data.errors import CorruptManifest, DatasetNotFound, IntegrityError, UserError
from bamba_data.format import manifest as manifests
from bamba_data.format import version_marks
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.fence import Fence, FenceLost
from bamba_data.format.layout import manifest_path, part_path, unit_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version
from bamba_data.inspect.verify import Report, check
from bamba_data.storage.store import Store

from .finished_units import UnitsLost
from .plan import Plan
from .staged_records import Staging

SHOWN = 5


def check_unpublished(plan: Plan, store: Store, manifest: Manifest, lock: str) -> None:
    """Verify, without bodies, what is about to be published.

    Raises:
        UnitsLost: Shards are damaged; the records of what made them are set aside, so that it runs again.
        IntegrityError: Anything else does not verify.
    """
    draft = Dataset(store, Version(0, manifest.digest, "", lock, ""), manifests.loads(manifest.data, "the manifest"))
    report = check(draft)
    if not report.faults:
        return
    if lost := _set_aside(plan, Staging(store), draft, report):
        raise UnitsLost(lost)
    faults = "; ".join(map(str, report.faults[:SHOWN]))
    raise IntegrityError(f"{faults}. Nothing was published; run the same command again to write it anew")


def refuse_over_derived(store: Store) -> None:
    """Raises UserError where a build would bring back what was dropped since: the newest version is a derived one."""
    try:
        newest = open_dataset(store.url)
    except (DatasetNotFound, CorruptManifest):  # told elsewhere: to build again may be what repairs it
        return
    if newest.manifest.derived is not None:
        raise UserError(
            f"{store.url}: its newest version, {newest.version.number}, was made by "
            f"`{newest.manifest.derived.command}`, and a build would publish what the recipe gives without that. To "
            "add inputs: bamba-data append. Or build at another place, or take the version "
            f"back first: bamba-data withdraw {store.url} {newest.version.number}"
        )


def check_published(store: Store, version: Version, fence: Fence) -> None:
    """Ask once more after publishing. A process that was suspended for long just before it may have published what a
    sweep took meanwhile: such a version is withdrawn."""
    try:
        fence.check()
    except FenceLost as lost:
        draft = Dataset(store, version, manifests.loads(store.read(manifest_path(version.manifest)), "the manifest"))
        if faults := check(draft).faults:
            why = f"published by a build that had lost its fence, of files that a sweep removed: {faults[0]}"
            version_marks.mark(
                store, "withdrawn", version.number, None, why
            )  # None: the same build may publish it again
            raise FenceLost(f"{lost}; version {version.number} was withdrawn: {why}") from None


def _set_aside(plan: Plan, staging: Staging, draft: Dataset, report: Report) -> dict[str, str]:
    """The units that made damaged shards, with what is wrong; their records are out of the way then."""
    faults = {fault.where: str(fault) for fault in report.faults}
    try:
        shards = draft.shards
    except IntegrityError:
        return {}
    # A manifest knows units by their number in the source, not by their key: keys tell of one machine's etags.
    keys = {(unit.source, unit.number): unit for unit in plan.units}
    lost: dict[str, str] = {}
    for row in shards.filter(shards["path"].is_in(list(faults))).iter_rows(named=True):
        unit = keys[row["source"], row["unit"]]
        staging.set_aside(part_path(unit.source, unit.key, row["part"]))
        staging.set_aside(unit_path(unit.source, unit.key))
        lost[unit.name] = faults[row["path"]]
    return lost
