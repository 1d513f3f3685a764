"""A training of a linear model over the real loader, one process a rank: what test_loader_ranks starts and stops.

    torchrun --nproc-per-node N -m tests.faults.loader_job DATA CACHE OUT FROM TO

Trains steps [FROM, TO). Every step's loss and every row's digest go into OUT/rank-N-FROM.jsonl; the loader's state
and the weights into OUT/state-TO.json, from where the next job goes on.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

import torch
import torch.distributed as dist

from loader import build_loader

ROW_TOKENS, BATCH_ROWS = 32, 10


def main(data: str, cache: str, out: Path, begin: int, end: int) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    loader = build_loader(
        data, row_tokens=ROW_TOKENS, batch_rows=BATCH_ROWS, seed=9, rank=rank, world_size=world_size, cache=cache
    )
    weight = torch.zeros(ROW_TOKENS, dtype=torch.float32)
    if begin:
        saved = json.loads((out / f"state-{begin}.json").read_text())
        loader.load_state_dict(saved["loader"])
        weight = torch.tensor(saved["weight"])
    with (out / f"rank-{rank}-{begin}.jsonl").open("w") as ledger:
        for step in range(begin, end):
            batch = next(loader)
            # Squared error of a linear guess of the row's mean id; the sum over all ranks is that of the batch.
            inputs = batch["input_ids"].float() / 50_000
            wrong = inputs @ weight - inputs.mean(1)
            sums = torch.cat([(wrong**2).sum()[None], inputs.T @ wrong])
            dist.all_reduce(sums)
            weight = weight - 0.5 * sums[1:] / BATCH_ROWS
            rows = [
                [int(g), sha256(ids.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()]
                for g, ids, labels in zip(batch["row"], batch["input_ids"], batch["labels"], strict=True)
            ]
            ledger.write(json.dumps({"step": step, "loss": float(sums[0]) / BATCH_ROWS, "rows": rows}) + "\n")
    state = loader.state_dict()
    every: list[object] = [None] * world_size
    dist.all_gather_object(every, state)
    assert all(one == state for one in every), "ranks have different states"
    if rank == 0:
        (out / f"state-{end}.json").write_text(json.dumps({"loader": state, "weight": weight.tolist()}))
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
