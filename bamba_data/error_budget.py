"""How many bad records are too many: in one input, while it is read, and in the whole, when all was.

    over the budget    more dead letters than `max_bad_rate` of all records: nothing is published
    hopeless           1,000 dead letters in one input (or one unit of small ones), and they are more than the stop
                       share of what was read of it so far: the build stops there

Both follow from the inputs and the recipe alone, not from which worker is quicker. The stop share is a tenth, or ten
times `max_bad_rate` if that is more, but at most half way from that rate to all. So of any input at most 1,000 records,
or the stop share of it, go into the dead letters; at `max_bad_rate: 1` nothing is ever hopeless.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from bamba_data.document import Ledger
from bamba_data.sources.fields import names_in
from bamba_data.sources.forms import hint

STOP_AFTER = 1000  # below so many a share says little: three bad lines at the head of a file are a third of it
STOP_SHARE = Fraction(1, 10)
SAMPLES = 20  # bad records that are looked at to explain them
_FIELDS_SHOWN = 12
_HEAD_BYTES = 64 << 10


def stop_share(max_bad_rate: float) -> Fraction:
    rate = _as_written(max_bad_rate)
    return max(STOP_SHARE, min(10 * rate, (1 + rate) / 2))


def is_hopeless(bad: int, read: int, max_bad_rate: float) -> bool:
    return bad >= STOP_AFTER and bad > stop_share(max_bad_rate) * read


def is_exceeded(bad: int, read: int, max_bad_rate: float) -> bool:
    return bad > _as_written(max_bad_rate) * read


def _as_written(rate: float) -> Fraction:
    """As people wrote it: 0.29 * 100 floats below 29."""
    return Fraction(str(rate))


def sufficient_rate(bad: int, read: int) -> str:
    """A rate that allows so many, in two digits, rounded up."""
    rate = Fraction(bad, read)
    digits = 1
    while rate * 10**digits < 10 and digits < 30:
        digits += 1
    return f"{float(-(-rate * 10**digits // 1) / Fraction(10) ** digits):.2g}"


def reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items(), key=lambda one: -one[1]))


def explain(letters: Sequence[Mapping[str, Any]]) -> str:
    """What the first bad records of one input have to say, for whoever must correct the recipe: one of them with its
    row, the fields that exist, and what the whole looks like. `letters` have row, reason, detail and raw."""
    if not letters:
        return ""
    first = letters[0]
    said = [f"row {first['row']:,} is {first['reason']} ({first['detail']})" if first["detail"] else first["reason"]]
    fields = _fields(letters)
    if fields:
        shown = ", ".join(list(fields)[:_FIELDS_SHOWN])
        more = f" and {len(fields) - _FIELDS_SHOWN} more" if len(fields) > _FIELDS_SHOWN else ""
        said.append(f"its fields are {shown}{more}")
        texts = {name: len(value) for name, value in fields.items() if isinstance(value, str)}
        if texts and first["reason"] in ("missing_text", "text_not_string"):
            longest = max(texts, key=lambda name: texts[name])
            said.append(f"the longest text is in {longest}: is it `text: {{text_field: {longest}}}`?")
    elif looks := hint(b"\n".join(bytes(letter["raw"]) for letter in letters)[:_HEAD_BYTES]):
        said.append(looks)
    return "; ".join(said)


def _fields(letters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the first record that is an object."""
    import json

    for letter in letters:
        try:
            record = json.loads(bytes(letter["raw"]))
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            return names_in(record)
    return {}


def over_budget(totals: Ledger, max_bad_rate: float) -> str:
    """The first sentence of the verdict."""
    return (
        f"{totals.bad:,} of {totals.read:,} records are bad ({reasons(totals.dead_lettered)}): a rate of "
        f"{totals.bad / totals.read:.2g}, bad_input.max_bad_rate is {max_bad_rate:g}"
    )
