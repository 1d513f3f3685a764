"""Train in Lightning: fit, validate, stop, and resume from Lightning's own checkpoint.

    python examples/with_lightning.py demo-dataset lightning-run

The module's hooks build the loaders, for there Lightning knows the rank. Its checkpoint holds the loader's state, so a
resumed fit gets the next rows. Prints the rows of two fits, and the loss on a source that is not learned.
"""

import sys
from typing import Any

import lightning
import torch

from bamba_data import open_dataset
from loader import Loader, OrderSpec, Reading, build_loader


class Bigrams(lightning.LightningModule):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.rows, ids = url, list[int](), open_dataset(url).manifest.tokenizer.vocab_size
        self.model = torch.nn.Sequential(torch.nn.Embedding(ids, 16), torch.nn.Linear(16, ids))

    def loader(self, weights: dict[str, float], **more: Any) -> Loader:
        reading = Reading(rank=self.trainer.global_rank, world_size=self.trainer.world_size, on_end="again", **more)
        return build_loader(self.url, OrderSpec(weights=weights, row_tokens=64, batch_rows=8), reading)

    def train_dataloader(self) -> Loader:
        return self.loader({"books": 3, "fineweb-edu": 1}, max_steps=100)  # a pass of 100 batches

    def val_dataloader(self) -> Loader:
        return self.loader({"cosmopedia-stories": 1}, max_steps=4, pad_rows=True)  # equally many on every rank

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.model(batch["input_ids"]).transpose(1, 2), batch["labels"])

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.rows += batch["row"].tolist()
        return self.forward(batch)

    def validation_step(self, batch: dict[str, torch.Tensor]) -> None:
        self.log("loss", self.forward(batch), batch_size=len(batch["row"]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def main(url: str = "demo-dataset", out: str = "lightning-run") -> None:
    for steps, resumed_from in ((4, None), (8, f"{out}/step-4.ckpt")):  # two fits, as two processes would be
        trainer = lightning.Trainer(max_steps=steps, val_check_interval=4, accelerator="cpu", default_root_dir=out)
        trainer.fit(module := Bigrams(url), ckpt_path=resumed_from)
        trainer.save_checkpoint(f"{out}/step-{steps}.ckpt")
        loss = trainer.callback_metrics["loss"]
        print(f"to step {steps}: rows {module.rows[0]} to {module.rows[-1]}, loss {loss:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
