"""The records of a plan's units, in its order, each proven to be whole and to have its files."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bamba_data.errors import CorruptManifest, Unfinished
from bamba_data.format.layout import dead_letter_folder, shard_folder, unit_path
from bamba_data.format.unit_records import UnitRecord
from bamba_data.storage.store import Store

from .plan import Plan, Unit
from .staged_records import Staging

RECORDS_AT_ONCE = 32
SHOWN = 3


class UnitsLost(Unfinished):
    """Units must run again: what is wrong with each, by its name. Their records are set aside already."""

    def __init__(self, lost: dict[str, str]) -> None:
        super().__init__(lost)
        self.lost = lost

    @property
    def summary(self) -> str:
        first = "; ".join(f"unit {name}: {why}" for name, why in list(self.lost.items())[:SHOWN])
        more = f" and {len(self.lost) - SHOWN:,} more" if len(self.lost) > SHOWN else ""
        return f"{len(self.lost):,} finished units cannot be used: {first}{more}"

    def __str__(self) -> str:
        return f"{self.summary}; run the same command again to make them anew"


def finished_units(plan: Plan, store: Store) -> Iterator[tuple[Unit, UnitRecord]]:
    """Every unit with its record, a few at a time in memory: a build may have 100,000 of them.

    Raises:
        UnitsLost: Records are missing, damaged, or name files that are not there whole; they are set aside.
    """
    staging, sizes = Staging(store), _staged_sizes(plan, store)
    units = iter(plan.units)
    lost: dict[str, str] = {}

    def read(unit: Unit) -> tuple[Unit, UnitRecord | None]:
        try:
            record = staging.unit(unit.source, unit.key)
            if record is None:
                lost[unit.name] = "it has no record"
            elif fault := _file_fault(record, sizes):
                raise CorruptManifest(unit_path(unit.source, unit.key), fault)
        except CorruptManifest as fault:
            staging.set_aside(unit_path(unit.source, unit.key))
            lost[unit.name], record = str(fault), None
        return unit, record

    # In chunks: pool.map over all units would start them all, and hold every record that is not yet taken.
    with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
        while chunk := [unit for _, unit in zip(range(RECORDS_AT_ONCE * 4), units, strict=False)]:
            for unit, record in pool.map(read, chunk):
                if record is not None and not lost:  # after the first that is lost only the others are looked for
                    yield unit, record
    if lost:
        raise UnitsLost(lost)


def _file_fault(record: UnitRecord, sizes: dict[str, int]) -> str | None:
    for part in record.parts:
        for file in part.files:
            if sizes.get(file.path) != file.size_bytes:
                now = f"{sizes[file.path]:,} bytes" if file.path in sizes else "nothing"
                return f"of {file.path} it wrote {file.size_bytes:,} bytes, now there is {now}"
    return None


def _staged_sizes(plan: Plan, store: Store) -> dict[str, int]:
    """Bytes by path where staged files go: one listing a source, instead of a request a file."""
    folders = [folder(name) for name in plan.lock.sources for folder in (shard_folder, dead_letter_folder)]
    return {entry.path: entry.size_bytes for folder in folders for entry in store.list(folder)}
