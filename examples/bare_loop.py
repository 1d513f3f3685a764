"""Read a dataset in a bare loop: what a batch holds, and what the state of a loader is.

    python examples/bare_loop.py demo-dataset

The order of rows is a pure function of the data, the seed and the weights: run it twice, or with any `num_workers`, and
the same numbers are printed. Prints the shapes of a batch, how many rows came from each source, the beginning of
a row as text, the source of a row that is looked up, and where a run would go on.
"""

import sys
from collections import Counter

from tokenizers import Tokenizer

from bamba_data import open_dataset
from loader import OrderSpec, Reading, build_loader


def main(url: str = "demo-dataset") -> None:
    weights = {"books": 2, "fineweb-edu": 1, "cosmopedia-stories": 1}  # in any unit; None takes sources by their tokens
    order = OrderSpec(weights=weights, row_tokens=256, batch_rows=16, seed=2023)
    loader = build_loader(url, order, Reading(max_steps=25))

    rows: Counter[str] = Counter()
    for batch in loader:  # a torch DataLoader; every batch is a dict of tensors
        rows.update(loader.plan.source_names[number] for number in batch["source"].tolist())

    for name in ("input_ids", "labels", "position_ids", "seq_idx", "row"):
        print(f"{name:13} {batch[name].dtype}, shape {list(batch[name].shape)}")
    print(f"rows of each source in {len(loader)} batches: {dict(rows)}")

    # Labels are shifted already, and -100 where nothing is to be learned: after the last token of a document.
    ends = int((batch["labels"] == -100).sum())
    tokenizer = Tokenizer.from_str(open_dataset(url).tokenizer_json().decode())
    text = tokenizer.decode(batch["input_ids"][0].tolist())
    print(f"documents that end in the last batch: {ends}; its first row: {text!r:.80}…")

    row = loader.rows[123]  # any row of the order by its number, out of turn
    print(f"row {row['row']} is of {loader.plan.source_names[row['source']]}")

    state = loader.state_dict()  # flat JSON, the same on every rank: see resume_on_other_ranks.py
    print(f"a run that stops here goes on at row {state['row']:,}, batch {state['steps']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
