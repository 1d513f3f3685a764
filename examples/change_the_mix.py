"""Change the mix of a run while it goes on.

    python examples/change_the_mix.py demo-dataset mix-run

A plan says which sources come in which shares from which row on. It is only ever added to, at rows that were not served
yet, so what a run has read stays what it was. The plan is part of the loader's state: who resumes from that goes on
under it, whatever the arguments say of the start.

Prints the share of books in each stage: about 3/4, then falling in a straight line, then 1/4; and what was skipped.
"""

import json
import sys
from pathlib import Path

from loader import Loader, OrderSpec, build_loader

ROWS = 32  # of a batch


def share_of_books(loader: Loader, batches: int) -> float:
    """The part of the rows of the next batches that comes from books."""
    number = loader.plan.source_names.index("books")
    return sum(int((next(loader)["source"] == number).sum()) for _ in range(batches)) / (batches * ROWS)


def main(url: str = "demo-dataset", out: str = "mix-run") -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    start = OrderSpec(weights={"books": 3, "fineweb-edu": 1}, row_tokens=64, batch_rows=ROWS, seed=3)
    loader = build_loader(url, start)
    print(f"books in batches 0 to 9:   {share_of_books(loader, 10):.2f}")

    row = loader.state_dict()["row"]  # the first row that nobody has seen; a plan begins to change here or later
    plan = loader.plan.with_ramp(row, rows=20 * ROWS, weights={"books": 1, "fineweb-edu": 3}, stages=20)
    plan = plan.with_skip(row + 30 * ROWS, rows=2 * ROWS, why="a loss spike in another run of this order")
    plan.save(folder / "plan.json")  # `python -m loader.simulate mix-run/plan.json …` shows what it will do
    loader = loader.with_plan(plan)  # the same place, under the longer plan
    print(f"books in batches 10 to 19: {share_of_books(loader, 10):.2f}")
    (folder / "loader.json").write_text(json.dumps(loader.state_dict()))

    resumed = build_loader(url, start)  # another process, started with the arguments of the first day
    resumed.load_state_dict(json.loads((folder / "loader.json").read_text()))
    print(f"books in batches 20 to 29: {share_of_books(resumed, 10):.2f}")
    print(f"books in batches 30 to 49: {share_of_books(resumed, 20):.2f}")
    row = resumed.state_dict()["row"]
    print(f"now at row {row:,}: 50 batches of {ROWS} rows, and {2 * ROWS} rows that were skipped")


if __name__ == "__main__":
    main(*sys.argv[1:])
