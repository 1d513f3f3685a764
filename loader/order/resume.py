"""Where a run is: one integer and a digest of the plan so far (which names the data). The same on every rank."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bamba_data import canonical_json
from bamba_data.errors import UserError

from .mixture import MAX_ROW
from .plan import MixPlan

FORMAT = "bamba-cursor/1"


class CursorMismatch(UserError):
    """A state of one order was given to another."""


@dataclass(frozen=True)
class Cursor:
    """`row` is the first global row not yet received by the trainer, `steps` how many batches were."""

    row: int
    steps: int
    prefix: str

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "row": self.row, "steps": self.steps, "prefix": self.prefix}


def cursor_at(plan: MixPlan, row: int, steps: int) -> Cursor:
    """The cursor of a run that has received all rows before `row`, in `steps` batches."""
    return Cursor(row, steps, plan.prefix_digest(row))


def from_json(raw: Any) -> Cursor:
    """What `Cursor.to_json` made. Raises UserError for anything else."""
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"this is no state of a loader of format {FORMAT}")
    row, steps, prefix = raw.get("row"), raw.get("steps"), raw.get("prefix")
    damaged = UserError("the state of the loader is damaged: row, steps or prefix is not what it must be")
    if not isinstance(row, int) or not isinstance(steps, int) or not isinstance(prefix, str):
        raise damaged
    if not 0 <= row < MAX_ROW or not 0 <= steps <= row:
        raise damaged
    return Cursor(row, steps, prefix)


def check(cursor: Cursor, plan: MixPlan, former: Iterable[MixPlan] = (), saved: MixPlan | None = None) -> None:
    """That all rows before the cursor are the same under `plan`. Raises CursorMismatch, which names both.

    `former` are plans of the same order under names of the first format, for states of that; `saved` is the plan that
    the state was of, if it is known: then the error names what differs, with both values.
    """
    mine = plan.prefix_digest(cursor.row)
    if mine != cursor.prefix and not (cursor.row == 0 and plan.begins_as(cursor.prefix)):
        if any(earlier.prefix_digest(cursor.row) == cursor.prefix for earlier in former):
            plan.begin(cursor.row)
            return
        raise CursorMismatch(
            f"this state is of another order: its {cursor.row:,} rows were served under plan {cursor.prefix[:16]}, "
            f"this plan is {mine[:16]} up to there. {_differences(plan, saved)}. Give the loader the plan that was "
            "saved beside the state, or go on all the same with load_state_dict(state, accept_other_order='why'), "
            "which is recorded"
        )
    plan.begin(cursor.row)


def _differences(plan: MixPlan, saved: MixPlan | None) -> str:
    """What differs between an order and the one that a state is of: each field with both values."""
    here = _decisive_values(plan)
    if saved is None:
        values = ", ".join(f"{name}: {value}" for name, value in here.items())
        return f"Data, a setting or an entry before that row differ; here {values}"
    there = _decisive_values(saved)
    differing = [
        f"{name}: {here.get(name, 'none')} here, {there.get(name, 'none')} in the state"
        for name in [*here, *(name for name in there if name not in here)]
        if here.get(name) != there.get(name)
    ]
    return f"What differs: {'; '.join(differing) if differing else 'the entries of the plan before that row'}"


def _decisive_values(plan: MixPlan) -> dict[str, str]:
    """What decides the order: the tokenizer, the content of every source, and the header's fields."""
    parts = {name: parts_of(identity) for name, identity in sorted(plan.sources.items())}
    header = plan.header.model_dump(mode="json", exclude={"format"}, exclude_none=True)
    tokenizers = {tokenizer for _, tokenizer in parts.values() if tokenizer}
    return {
        "tokenizer": ", ".join(sorted(tokenizers)) or "unknown",
        **{f"content of source {name!r}": content[:16] for name, (content, _) in parts.items()},
        **{name: str(value) for name, value in header.items()},
    }


def parts_of(identity: str) -> tuple[str, str]:
    """The content and the tokenizer that the name of a source's data has, in hex; of any other name its digest."""
    match = _PARTS.match(identity)
    if match is None:
        return canonical_json.digest(identity), ""
    content, tokenizer, rest = match.groups()
    return (canonical_json.digest([content, rest]) if rest else content), tokenizer


_PARTS = re.compile(r"^(?:content|text):([0-9a-f]{64})/([0-9a-f]{16})(#.*)?$")
