"""Stop a loader, and go on with another number of ranks: no row is lost, none comes twice.

    torchrun --nproc-per-node 2 examples/resume_on_other_ranks.py demo-dataset loader-run
    torchrun --nproc-per-node 3 examples/resume_on_other_ranks.py demo-dataset loader-run
    torchrun --nproc-per-node 1 examples/resume_on_other_ranks.py demo-dataset loader-run

Each start reads ten batches from where the last one ended. The state is the same on every rank, so one rank saves it
and any world loads it. Each rank appends the rows that it received to `loader-run/rows.jsonl`.

Prints how far the world has read.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from loader import OrderSpec, Reading, build_loader

STEPS = 10


def main(url: str = "demo-dataset", out: str = "loader-run") -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)

    order, reading = OrderSpec(row_tokens=128, batch_rows=12, seed=7), Reading(rank=rank, world_size=world_size)
    loader = build_loader(url, order, reading)
    state = folder / "loader.json"
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))

    received = []
    for _ in range(STEPS):
        batch = next(loader)  # this rank's rows of the global batch of 12; here the training step would come
        received.append({"rank": rank, "world_size": world_size, "rows": batch["row"].tolist()})

    with (folder / "rows.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in received))
    dist.barrier()  # a training step is one too: nobody saves a new state before all have loaded the old one
    if rank == 0:  # in training it goes into the checkpoint, beside the model
        state.write_text(json.dumps(loader.state_dict()))
        print(f"{world_size} ranks read on to row {loader.state_dict()['row']}; rank 0 had {received[0]['rows']} first")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
