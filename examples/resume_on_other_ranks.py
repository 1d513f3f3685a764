"""Stop a loader, and go on with another number of ranks: no row is lost, none comes twice.

    torchrun --nproc-per-node 2 examples/resume_on_other_ranks.py demo-dataset loader-run
    torchrun --nproc-per-node 3 examples/resume_on_other_ranks.py demo-dataset loader-run
    python examples/resume_on_other_ranks.py demo-dataset loader-run

Each start reads ten batches from where the last one ended. The state is the same on every rank, so one rank saves it
and any world loads it. Each rank appends the rows that it received to `loader-run/rows.jsonl`.

Prints how far the world has read.
"""

import json
import os
import sys
from pathlib import Path

from loader import build_loader

STEPS = 10


def main(url: str = "demo-dataset", out: str = "loader-run") -> None:
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # torchrun sets them
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)

    loader = build_loader(url, row_tokens=128, batch_rows=12, seed=7, rank=rank, world_size=world_size)
    state = folder / "loader.json"
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))

    received = []
    for _ in range(STEPS):
        batch = next(loader)  # this rank's rows of the global batch of 12; here the training step would come
        received.append({"rank": rank, "world_size": world_size, "rows": batch["row"].tolist()})

    with (folder / "rows.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in received))
    if rank == 0:  # in training it goes into the checkpoint, beside the model
        (folder / "loader.next.json").write_text(json.dumps(loader.state_dict()))
        (folder / "loader.next.json").replace(state)
        print(f"{world_size} ranks read on to row {loader.state_dict()['row']}; rank 0 had {received[0]['rows']} first")


if __name__ == "__main__":
    main(*sys.argv[1:])
