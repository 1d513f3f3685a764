"""Where a run is: one integer and a digest of the plan so far (which names the data). The same on every rank."""

from dataclasses import dataclass
from typing import Any

from bamba_data.errors import UserError
from loader.mix import MAX_ROW
from loader.plan import MixPlan

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
    return Cursor(row, steps, plan.prefix_digest(row))


def from_json(raw: Any) -> Cursor:
    """Raises UserError for anything that `to_json` did not make."""
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"this is no state of a loader of format {FORMAT}")
    row, steps, prefix = raw.get("row"), raw.get("steps"), raw.get("prefix")
    damaged = UserError("the state of the loader is damaged: row, steps or prefix is not what it must be")
    if not isinstance(row, int) or not isinstance(steps, int) or not isinstance(prefix, str):
        raise damaged
    if not 0 <= row < MAX_ROW or not 0 <= steps <= row:
        raise damaged
    return Cursor(row, steps, prefix)


def check(cursor: Cursor, plan: MixPlan) -> None:
    """That all rows before the cursor are the same under `plan`. Raises CursorMismatch, which names both."""
    mine = plan.prefix_digest(cursor.row)
    if mine != cursor.prefix and not (cursor.row == 0 and plan.begins_as(cursor.prefix)):
        header = plan.header
        raise CursorMismatch(
            f"this state is of another order: its {cursor.row:,} rows were served under plan {cursor.prefix[:16]}, "
            f"this plan is {mine[:16]} up to there (seed {header.seed}, {header.row_tokens:,} tokens a row, sources "
            f"{', '.join(sorted(plan.sources))}). Data, tokenizer, seed, row length, delimiters, hold-out or an entry "
            "before that row differ: give the loader the plan that was saved beside the state, or go on all the same "
            "with load_state_dict(state, accept_other_order='why'), which is recorded"
        )
    plan.begin(cursor.row)
