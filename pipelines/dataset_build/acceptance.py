"""Whether what the units came to may be published: the error budget, and that there is something in every source."""

from collections.abc import Mapping
from typing import Any, Protocol

from bamba_data.document import Ledger
from bamba_data.error_budget import SAMPLES, explain, is_exceeded, over_budget, reasons, sufficient_rate
from bamba_data.errors import BambaError, BudgetExceeded, NoDocuments
from bamba_data.format.tables import read_table
from bamba_data.recipe import BadInput
from bamba_data.storage.store import Store

KEPT = "Nothing was published, all work is kept"
NAMED = 10  # sources in one message
COLUMNS = ["path", "row", "reason", "detail", "raw"]


class Totals(Protocol):
    """What a source came to. `letters` is the file with most of its dead letters: (records, path)."""

    ledger: Ledger
    files: int
    quarantined: int
    letters: tuple[int, str] | None


def check(rules: BadInput, sources: Mapping[str, Totals], store: Store) -> None:
    """Raises BudgetExceeded or NoDocuments, with what the bad records look like and the way out."""
    totals = Ledger()
    for source in sources.values():
        totals.add(source.ledger)
    empty = {name: it for name, it in sources.items() if it.ledger.kept == 0 and it.quarantined < it.files}
    if is_exceeded(totals.bad, totals.read, rules.max_bad_rate):
        raise BudgetExceeded(_exceeded(rules, sources, totals, bool(empty), store))
    if rules.empty_sources == "keep":
        return
    if empty or totals.kept == 0:
        raise NoDocuments(_empty(empty, store))


def _exceeded(rules: BadInput, sources: Mapping[str, Totals], totals: Ledger, some_empty: bool, store: Store) -> str:
    worst = max(sources.values(), key=lambda source: source.ledger.bad)
    lines = [f"{over_budget(totals, rules.max_bad_rate)}. {KEPT}"]
    if explained := _explained(worst, store):
        lines.append(explained)
    ways = "correct the recipe or the inputs, or leave inputs out (--quarantine SOURCE/PATH, patterns allowed)"
    if not some_empty:  # else a rate that allows these would publish a source of nothing
        rate = sufficient_rate(totals.bad, totals.read)
        ways += (
            f", or, if these may be missing, drop or keep them by a policy (bad_input.policy), or allow so many: "
            f"--set bad_input.max_bad_rate={rate}"
        )
    return ". ".join([*lines, f"Look at them under _bamba/dead_letters; {ways}"])


def _empty(empty: Mapping[str, Totals], store: Store) -> str:
    lines = [f"no document in {', '.join(list(empty)[:NAMED]) or 'any source'}: {KEPT[0].lower()}{KEPT[1:]}."]
    for name, source in list(empty.items())[:NAMED]:
        ledger = source.ledger
        fate = "" if ledger.read else ": its inputs have no records"
        fate += f": dropped {reasons(ledger.dropped)}" if ledger.dropped else ""
        fate += f": bad {reasons(ledger.dead_lettered)}" if ledger.dead_lettered else ""
        explained = _explained(source, store)
        lines.append(f"  {name}: {ledger.read:,} records read{fate}{f'; {explained}' if explained else ''}")
    lines.append("Correct the recipe or the inputs; if that is as it should be: --set bad_input.empty_sources=keep")
    return "\n".join(lines)


def _explained(source: Totals, store: Store) -> str:
    """From the dead letters of the first input in the fullest file of them."""
    if source.letters is None:
        return ""
    path = source.letters[1]
    try:
        table = read_table(store.read(path), COLUMNS)
    except (OSError, ValueError, BambaError):  # only an explanation: the message stands without it
        return ""
    rows: list[dict[str, Any]] = table.slice(0, SAMPLES).to_pylist()
    if not rows:
        return ""
    examples = explain([row for row in rows if row["path"] == rows[0]["path"]])
    return f"In {rows[0]['path']} {examples} ({path})"
