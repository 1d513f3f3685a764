"""Train a model of Hugging Face with transformers' Trainer, stop, and resume from its own checkpoint.

    python examples/with_transformers.py demo-dataset trainer-run

Give the loader by `get_train_dataloader`, so that it is read as it is: a `train_dataset` would be collected and dealt
out a second time. `for_transformers` names the tensors as such a model takes them, with labels that are not shifted
again. The Trainer finds its place by the steps in its checkpoint, and reads the batches that it skips.

Prints the rows that each of two trainings learned from.
"""

import sys
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from bamba_data import open_dataset
from loader import Loader, OrderSpec, Reading, build_loader, for_transformers


class OrderedTrainer(Trainer):
    def __init__(self, url: str, **more: Any) -> None:
        super().__init__(**more)
        self.url, self.rows = url, list[int]()

    def get_train_dataloader(self) -> Loader:
        rank, world_size = self.args.process_index, self.args.world_size
        return build_loader(
            self.url,
            OrderSpec(row_tokens=64, batch_rows=8),
            Reading(rank=rank, world_size=world_size, max_steps=1000, on_end="again"),  # a pass of 1,000 batches
            transform=lambda batch: {**for_transformers(batch), "row": batch["row"]},
        )

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any) -> Any:
        self.rows += inputs.pop("row").tolist()
        return super().training_step(model, inputs, *more)


def main(url: str = "demo-dataset", out: str = "trainer-run") -> None:
    vocab_size = open_dataset(url).manifest.tokenizer.vocab_size
    shape = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    for steps in (4, 8):  # two trainings, as two processes would be
        arguments = TrainingArguments(out, max_steps=steps, save_steps=4, use_cpu=True, report_to=[], logging_steps=4)
        trainer = OrderedTrainer(url, model=LlamaForCausalLM(shape), args=arguments)
        trainer.train(resume_from_checkpoint=steps > 4)
        print(f"to step {steps}: rows {trainer.rows[0]} to {trainer.rows[-1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
