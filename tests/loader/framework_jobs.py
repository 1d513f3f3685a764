"""One rank of a training job in a framework, as a script: what it was given, row by row, goes to a file.

    torchrun --nproc-per-node 2 -m tests.loader.framework_jobs FRAMEWORK DATASET FOLDER STEPS [resume]

Each job trains from where FOLDER says, or from the beginning, to step STEPS of the run, and saves there. It appends
{"step", "rows", "ids"} of every batch to FOLDER/rank-R.jsonl. `FRAMEWORK` is a function below.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from loader import Loader, build_loader

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 6, "seed": 3, "prefetch_tokens": 200}
STEPS_OF_A_PASS = 10


def loader_of(dataset: str, folder: Path, **more: Any) -> Loader:
    """This rank's share of a pass of STEPS_OF_A_PASS batches, which begins anew when it is read again."""
    made = {"max_steps": STEPS_OF_A_PASS, "on_end": "again"} | more
    return build_loader(dataset, **MIX, rank=RANK, world_size=WORLD, cache=folder / "cache", **made)


class Written:
    """The file of a rank."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"rank-{RANK}.jsonl"

    def add(self, batch: dict[str, Any], **more: Any) -> None:
        with self.path.open("a") as file:
            line = {"rows": batch["row"].tolist(), "ids": batch["input_ids"].tolist(), **more}
            file.write(json.dumps(line) + "\n")


def tiny() -> torch.nn.Module:
    return torch.nn.Linear(24, 1)


def bare(dataset: str, folder: Path, steps: int, resume: bool) -> None:
    """The loop without a framework that all others must equal: passes of the loader, one after the other."""
    loader, written, done = loader_of(dataset, folder), Written(folder), 0
    while done < steps:
        for batch in loader:
            written.add(batch)
            done += 1
            if done == steps:
                return


def accelerate(dataset: str, folder: Path, steps: int, resume: bool) -> None:
    """`prepare`, `save_state` and `load_state`; four batches are accumulated, and a pass has ten."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    assert accelerator.num_processes == WORLD
    model = tiny()
    loader = loader_of(dataset, folder)
    model, optimizer, prepared = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1), loader)
    assert prepared is loader
    written, progress = Written(folder), folder / "progress.json"
    done = 0
    if resume:
        accelerator.load_state(str(folder / "accelerate"))
        done = json.loads(progress.read_text())
    while done < steps:
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch["input_ids"].float()).mean() * 1e-6)
                written.add(batch, stepped=accelerator.sync_gradients)
                optimizer.step()
                optimizer.zero_grad()
            done += 1
            if done == steps:
                break
    accelerator.save_state(str(folder / "accelerate"))
    if accelerator.is_main_process:
        progress.write_text(json.dumps(done))
    accelerator.wait_for_everyone()


def accelerate_skips(dataset: str, folder: Path, steps: int, resume: bool) -> None:
    """`skip_first_batches` instead of a saved state."""
    from accelerate import Accelerator, skip_first_batches

    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(loader_of(dataset, folder))
    written, progress = Written(folder), folder / "progress.json"
    done = json.loads(progress.read_text()) if resume else 0
    while done < steps:
        inside = done % STEPS_OF_A_PASS
        for batch in skip_first_batches(loader, inside) if inside else loader:
            written.add(batch)
            done += 1
            if done == steps:
                break
    accelerator.wait_for_everyone()  # else a rank that starts late reads where this run ends, not where it begins
    if accelerator.is_main_process:
        progress.write_text(json.dumps(done))
    accelerator.wait_for_everyone()


def accelerate_wraps(dataset: str, folder: Path, steps: int, resume: bool) -> None:
    """A DataLoader over the dataset, given to `prepare`, which would deal its rows out a second time: refused."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from bamba_data.errors import UserError

    wrapped = Accelerator(cpu=True).prepare(DataLoader(loader_of(dataset, folder).dataset, batch_size=None))
    if RANK:
        return  # the first rank reads for all
    try:
        next(iter(wrapped))
    except UserError as error:
        (folder / "refused.txt").write_text(str(error))


def lightning(dataset: str, folder: Path, steps: int, resume: bool) -> None:
    """fit with a validation loader, and its own checkpoints."""
    import lightning as L

    warnings.simplefilter("ignore")
    written = Written(folder)

    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = tiny()
            self.validated = 0

        def training_step(self, batch: dict[str, Any], index: int) -> Any:
            written.add(batch)
            return self.layer(batch["input_ids"].float()).mean() * 1e-6

        def on_validation_epoch_start(self) -> None:
            self.validated = 0

        def validation_step(self, batch: dict[str, Any], index: int) -> None:
            self.validated += int((batch["labels"] >= 0).sum())

        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                with (folder / f"validated-{RANK}.txt").open("a") as file:
                    file.write(f"{self.validated}\n")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-9)

    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        val_check_interval=5,
        default_root_dir=folder,
    )
    held_out = loader_of(dataset, folder, split="holdout", max_steps=None, on_end=None, pad_rows=True)
    at = folder / "lightning.ckpt"
    trainer.fit(Module(), loader_of(dataset, folder), held_out, ckpt_path=at if resume else None)
    trainer.save_checkpoint(at)


def transformers(dataset: str, folder: Path, steps: int, resume: bool) -> None:
    """Its Trainer, which is given the loader by `get_train_dataloader`, and resumes from its own checkpoints."""
    import transformers as hf

    warnings.simplefilter("ignore")
    written = Written(folder)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = tiny()

        def forward(self, input_ids: Any, labels: Any, row: Any) -> Any:
            written.add({"input_ids": input_ids, "row": row})
            return {"loss": self.layer(input_ids.float()).mean() * 1e-6}

    def used(batch: dict[str, Any]) -> dict[str, Any]:
        """What the model's forward takes."""
        return {name: batch[name] for name in ("input_ids", "labels", "row")}

    class Trainer(hf.Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return loader_of(dataset, folder, transform=used)

    arguments = hf.TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        save_steps=steps,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        save_strategy="steps",
        logging_strategy="no",
    )
    Trainer(model=Model(), args=arguments).train(resume_from_checkpoint=resume)


FRAMEWORKS: dict[str, Callable[[str, Path, int, bool], None]] = {
    function.__name__: function
    for function in (bare, accelerate, accelerate_skips, accelerate_wraps, lightning, transformers)
}

if __name__ == "__main__":
    name, data, where, last = sys.argv[1:5]
    torch.set_num_threads(1)
    FRAMEWORKS[name](data, Path(where), int(last), sys.argv[5:] == ["resume"])
    if dist.is_initialized():
        dist.destroy_process_group()
