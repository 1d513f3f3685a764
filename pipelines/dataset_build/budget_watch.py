"""The error budget while a unit runs: it counts from the unit's first record on, over kills and finished parts, and
tells at which record its input is hopeless (bamba_data.error_budget)."""

from collections.abc import Sequence
from typing import Any

from bamba_data.error_budget import SAMPLES, explain, is_hopeless
from bamba_data.errors import HopelessInput
from bamba_data.format.unit_records import Part
from bamba_data.recipe import BadInput

from .plan import Unit


class BudgetWatch:
    """Used once, beside the parts that follow the finished ones."""

    def __init__(self, unit: Unit, rules: BadInput, finished: Sequence[Part]) -> None:
        self._unit, self._rate = unit, rules.max_bad_rate
        self._of_file = [(0, 0) for _ in unit.files]  # bad, read
        self._of_unit = (0, 0)
        for part in finished:
            for position, ledger in part.ledgers.items():
                self._count(position, ledger.bad, ledger.read)

    def _count(self, position: int, bad: int, read: int) -> None:
        of_file, of_unit = self._of_file[position], self._of_unit
        self._of_file[position] = (of_file[0] + bad, of_file[1] + read)
        self._of_unit = (of_unit[0] + bad, of_unit[1] + read)

    def took(self, position: int, read: int, is_bad: bool) -> bool:
        """So many more records of the file at `position`, of which the last alone may be bad; whether to read on is
        hopeless now."""
        self._count(position, is_bad, read)
        return is_bad and (is_hopeless(*self._of_file[position], self._rate) or is_hopeless(*self._of_unit, self._rate))

    def fault(self, position: int, letters: Sequence[dict[str, Any]], path: str) -> HopelessInput:
        """Why, from the `letters` of the part at work, which lie at `path` in the store too."""
        bad, read = self._of_file[position]
        name, way_out = self._unit.files[position].locked.key, ""
        if is_hopeless(bad, read, self._rate):
            way_out = f", or leave it out (--quarantine '{name}')"
        else:
            bad, read = self._of_unit
            name = f"{self._unit.files[0].locked.key} to {name}"
        of_this = [letter for letter in letters if letter["path"] == self._unit.files[position].locked.path]
        drop = f", or drop such records (bad_input.policy: {{{of_this[-1]['reason']}: drop}})" if bad < read else ""
        return HopelessInput(
            f"{name}: {bad:,} of its first {read:,} records are bad, so it was not read on: "
            f"{explain(of_this[:SAMPLES])}. They lie in {path}. Correct the recipe or the file{drop}{way_out}"
        )
