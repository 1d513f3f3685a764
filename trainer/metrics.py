"""What a run tells: a line on stderr, a JSON line in `metrics.jsonl`, and TensorBoard, all of the same numbers.

loss, loss/<source>   nats a target, over the steps since the last line
grad_norm, lr         of the line's step
tokens_per_second     of all ranks and, as tokens_per_second_per_gpu, of one; padding is not counted
mfu                   of the peak of the device in bfloat16, by the rule in ModelConfig.flops_per_token
memory_gib            the most that torch held on rank 0 since the last line
loader_wait           the part of the time that rank 0 waited for rows
tokens, tokens/<source>, bad_steps   since the run began; tokens are those with a label
epochs/<source>       how far the source has been read, 1.5 is the middle of its second epoch; rows left out count
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from trainer.parallel import World
from trainer.recipe import Recipe
from trainer.step import Outcome

#: Dense bfloat16 FLOP/s that the maker states.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
SOURCES_EVERY = 10  # lines on stderr: then one of the sources; the files have them all


def say(text: str) -> None:
    """A line for whoever looks."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def nothing(text: str) -> None:
    """What the ranks other than the first say."""


class Metrics:
    """Adds steps up and writes a line now and then. Only rank 0 writes; `folder` may be None for no files."""

    def __init__(self, recipe: Recipe, world: World, sources: Sequence[str], folder: Path | None) -> None:
        self.recipe, self.world = recipe, world
        self._lines = 0
        self._board = self._file = None
        if world.leads and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"))
        self.resume(sources, {})

    def resume(self, sources: Sequence[str], tokens: Mapping[str, int]) -> None:
        """Go on from so many tokens of each source; `sources` are named as a step's outcome counts them."""
        self.sources = list(sources)
        self.tokens = {name: tokens.get(name, 0) for name in self.sources}
        self._begin()

    def _begin(self) -> None:
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self._sums = [0.0] * len(self.sources)
        self._counts = [0] * len(self.sources)

    def see(self, outcome: Outcome, seconds: float, waited_seconds: float) -> None:
        """Count a step in."""
        self._seconds += seconds
        self._steps += 1
        self._waited += waited_seconds
        for at, (name, total, count) in enumerate(
            zip(self.sources, outcome.source_loss_sums, outcome.source_targets, strict=True)
        ):
            self._sums[at] += total
            self._counts[at] += count
            self.tokens[name] += count

    def line(
        self, step: int, outcome: Outcome, lr: float, bad_steps: int, epochs: Mapping[str, float]
    ) -> dict[str, Any]:
        """Write what happened since the last line; return it."""
        seconds = max(self._seconds, 1e-9)
        rows = self.recipe.data.batch_rows * self._steps
        rate = rows * self.recipe.data.row_tokens / seconds
        values: dict[str, Any] = {
            "step": step,
            "loss": sum(self._sums) / max(sum(self._counts), 1),
            "grad_norm": outcome.grad_norm,
            "lr": lr,
            "tokens_per_second": rate,
            "tokens_per_second_per_gpu": rate / self.world.size,
            "loader_wait": self._waited / seconds,
            "tokens": sum(self.tokens.values()),
            "bad_steps": bad_steps,
        }
        if self.world.device.type == "cuda":
            peak = next((f for name, f in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()), None)
            if peak:
                flops = self.recipe.model.flops_per_token(self.recipe.data.row_tokens)
                values["mfu"] = rate / self.world.size * flops / peak
            values["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        for at, name in enumerate(self.sources):
            if self._counts[at]:
                values[f"loss/{name}"] = self._sums[at] / self._counts[at]
            values[f"tokens/{name}"] = self.tokens[name]
            values[f"epochs/{name}"] = epochs[name]
        self.event(values)
        if self.world.leads:
            self._say(step, values)
        self._begin()
        return values

    def _say(self, step: int, values: Mapping[str, Any]) -> None:
        mfu = f", MFU {values['mfu']:.1%}" if "mfu" in values else ""
        memory = f"  {values['memory_gib']:.1f} GiB" if "memory_gib" in values else ""
        say(
            f"step {step}/{self.recipe.schedule.steps}  loss {values['loss']:.4f}  norm {values['grad_norm']:.3f}  "
            f"lr {values['lr']:.3g}  {values['tokens_per_second']:,.0f} tokens/s{mfu}{memory}  "
            f"waited {values['loader_wait']:.1%}"
        )
        self._lines += 1
        if self._lines % SOURCES_EVERY == 0 or step == self.recipe.schedule.steps:
            for name in self.sources:
                loss = f"loss {values[f'loss/{name}']:.4f}  " if f"loss/{name}" in values else ""
                say(f"    {name}: {loss}{values[f'tokens/{name}']:,} tokens, {values[f'epochs/{name}']:.3f} epochs")

    def event(self, values: dict[str, Any]) -> None:
        """Any other thing worth a line: a resume, a rewind, a held-out loss."""
        if self._file is None:
            return
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        assert self._board
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            assert self._board
            self._board.close()
