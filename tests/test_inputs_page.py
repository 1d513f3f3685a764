"""The page on inputs says of every reason what becomes of it, as the code has it."""

import re
from pathlib import Path

from bamba_data.document import KEEPABLE, REASONS

PAGE = Path(__file__).parents[1] / "docs" / "inputs.md"


def test_every_reason_stands_in_the_table_with_its_actions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w+) \| ([\w, ]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {reason: (usual, set(others.split(", "))) for reason, usual, others in rows}
    assert told == {
        reason: (usual, {"drop", "dead_letter", *({"keep"} if reason in KEEPABLE else ())} - {usual})
        for reason, usual in REASONS.items()
    }
