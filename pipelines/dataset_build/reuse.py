"""Finished units under other rules for bad input: one is the same under all rules that would change nothing in it.

A policy for a reason that no record of a unit met, or a limit that was raised and that none of its records exceeded,
changes nothing there. So beside the record of a finished unit lies a note, whose name says all: what the unit is apart
from the rules (`Unit.base`), its limits, and the reasons that it met, each with what became of such records. A plan
under other rules takes over the units whose notes fit, by one listing; the others are made anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from bamba_data.document import FILTERED, REASONS, Ledger
from bamba_data.format.layout import UNIT_NAME, UNITS, unit_folder
from bamba_data.recipe import BadInput
from bamba_data.records import seal
from bamba_data.storage.store import Store

from .plan import Plan, Unit

FORMAT = "bamba-unit-met/1"
_PREFIX = "met-"

#: The limits that decide outcomes, and the reason that a record meets which exceeds one.
LIMITS: Mapping[str, str] = {
    "max_line_bytes": "line_too_long",
    "max_document_bytes": "document_too_large",
    "max_inflate_ratio": "",  # no record does: the unit fails
}


@dataclass(frozen=True)
class Met:
    """What of the rules a unit met: the limits it was made under, and by reason the action on records that met it."""

    limits: tuple[int, ...]
    actions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, rules: BadInput, ledger: Ledger) -> "Met":
        counted = {*ledger.dropped, *ledger.dead_lettered, *ledger.notes}
        met = sorted(reason for reason in (*REASONS, *FILTERED) if reason in counted)
        limits = tuple(int(getattr(rules, limit)) for limit in LIMITS)
        return cls(limits, tuple((reason, rules.action(reason)) for reason in met))

    def fits(self, rules: BadInput) -> bool:
        """Whether a unit that met this would be the same under `rules`."""
        reasons = {reason for reason, _ in self.actions}
        for limit, had in zip(LIMITS, self.limits, strict=True):
            now = int(getattr(rules, limit))
            if now < had or (now > had and LIMITS[limit] in reasons):
                return False
        return all(rules.action(reason) == action for reason, action in self.actions)

    def __str__(self) -> str:
        return ".".join([*map(str, self.limits), *(f"{reason}={action}" for reason, action in self.actions)])

    @classmethod
    def parsed(cls, text: str) -> "Met | None":
        """What `str` made, or None: of later reasons or limits, say."""
        words = text.split(".")
        numbers, pairs = words[: len(LIMITS)], [word.partition("=") for word in words[len(LIMITS) :]]
        if len(numbers) < len(LIMITS) or not all(word.isdecimal() for word in numbers):
            return None
        if not all(reason in REASONS or reason in FILTERED for reason, _, _ in pairs):
            return None
        return cls(tuple(map(int, numbers)), tuple((reason, action) for reason, _, action in pairs))


def note(store: Store, unit: Unit, rules: BadInput, ledger: Ledger) -> None:
    """Leave word of what a unit met, after its record."""
    met = Met.of(rules, ledger)
    path = f"{unit_folder(unit.source, unit.key)}/{_PREFIX}{unit.base}.{met}.json"
    store.put(path, seal({"format": FORMAT, "key": unit.key, "base": unit.base, "met": str(met)}))


class TakenOver(NamedTuple):
    """A plan with the keys of finished units in place of those that would give the same, and how many of its units are
    finished."""

    plan: Plan
    finished: int


def taken_over(plan: Plan, store: Store) -> TakenOver:
    """By one listing of what there is."""
    finished: set[str] = set()
    notes: dict[str, list[tuple[str, Met]]] = {}
    own = {unit.key for unit in plan.units}
    for entry in store.list(UNITS):
        key, name = entry.path.split("/")[-2:]
        if name == UNIT_NAME:
            finished.add(key)
        elif name.startswith(_PREFIX) and name.endswith(".json") and key not in own:  # its own it has by their records
            base, _, rest = name.removeprefix(_PREFIX).removesuffix(".json").partition(".")
            if (met := Met.parsed(rest)) is not None:
                notes.setdefault(base, []).append((key, met))
    rules = plan.recipe.bad_input

    def same(unit: Unit) -> Unit:
        if unit.key in finished:
            return unit
        # Any of them gives the same bytes; sorted, so that every machine takes the same one.
        fitting = sorted(key for key, met in notes.get(unit.base, ()) if key in finished and met.fits(rules))
        return replace(unit, key=fitting[0]) if fitting else unit

    units = tuple(map(same, plan.units))
    return TakenOver(replace(plan, units=units), sum(unit.key in finished for unit in units))
