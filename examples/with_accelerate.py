"""Train in Accelerate: `prepare`, gradient accumulation, `save_state`, `load_state`.

    python examples/with_accelerate.py demo-dataset accelerate-run
    torchrun --nproc-per-node 2 examples/with_accelerate.py demo-dataset accelerate-run      # goes on, on two ranks

`prepare` leaves the loader as it is: it deals the rows out to the ranks already. `save_state` holds the loader's place
and plan; each start goes on from there for eight batches, which are two steps of the optimizer.

Prints the rows of every start, and its last loss.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn import functional

from bamba_data import open_dataset
from loader import OrderSpec, Reading, build_loader


def main(url: str = "demo-dataset", out: str = "accelerate-run") -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    reading = Reading(
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        max_steps=1000,  # a pass; frameworks count passes
        on_end="again",
    )
    loader = build_loader(url, OrderSpec(row_tokens=64, batch_rows=8), reading)
    vocab_size = open_dataset(url).manifest.tokenizer.vocab_size
    model = torch.nn.Sequential(torch.nn.Embedding(vocab_size, 16), torch.nn.Linear(16, vocab_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    saved = Path(out) / "state"
    if saved.exists():
        accelerator.load_state(str(saved))

    rows: list[int] = []
    for _, batch in zip(range(8), loader, strict=False):
        with accelerator.accumulate(model):
            logits = model(batch["input_ids"]).flatten(0, 1)
            loss = functional.cross_entropy(logits, batch["labels"].flatten())  # -100 where nothing is to be learned
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        rows += batch["row"].tolist()

    accelerator.save_state(str(saved))
    accelerator.print(f"rank 0 of {accelerator.num_processes}: rows {rows[0]} to {rows[-1]}, loss {loss.item():.2f}")
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
