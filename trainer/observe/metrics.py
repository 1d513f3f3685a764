"""What a run tells: a line on stderr, a JSON line in `metrics.jsonl`, and trackers, all of the same numbers.

loss, loss/<source>   nats a target, over the steps since the last line; of those whose gradient was finite
grad_norm, lr         of the line's step
tokens_per_second     of all ranks and, as tokens_per_second_per_gpu, of one; padding is not counted
mfu                   of the peak of the device in bfloat16, by the rule in ModelConfig.flops_per_token
mfu_float8            the same work, of its peak in float8; where linears compute in that (compute.float8)
memory_gib            the most that torch held on rank 0 since the last line, and what GPUs share
loader_wait           the part of the time that rank 0 waited for rows
tokens, tokens/<source>, bad_steps   since the run began; tokens are those with a label
epochs/<source>       how far the source has been read, 1.5 is the middle of its second epoch; rows left out count
saved_step            the newest checkpoint is of the state after this step
redone                true where a line of this step was written before: the run went back, or was killed
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import Recipe
from ..distributed.fsdp import World
from ..step import StepMetrics
from .json_lines import JsonLines
from .trackers import TrackerContext, Trackers, check_installed

#: Dense FLOP/s that the maker states (for SXM boards, without sparsity), in bfloat16 and in float8.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
PEAK_FLOAT8_FLOPS = {"H100": 1979e12, "H200": 1979e12, "B200": 4500e12}
SOURCES_EVERY = 10  # lines on stderr: then one of the sources; the files have them all


def utilization(recipe: Recipe, tokens_per_second_per_gpu: float, device: str) -> dict[str, float]:
    """`mfu` of a device of that name and, where linears compute in float8, `mfu_float8`; empty for one that is not
    known."""
    flops = tokens_per_second_per_gpu * recipe.model.flops_per_token(recipe.data.row_tokens)
    peaks = {"mfu": PEAK_FLOPS} | ({"mfu_float8": PEAK_FLOAT8_FLOPS} if recipe.compute.float8 != "none" else {})
    return {name: flops / peak for name, known in peaks.items() for kind, peak in known.items() if kind in device}


def utilization_said(values: Mapping[str, Any]) -> str:
    """With the peak's name where there are two."""
    if "mfu_float8" in values:
        return f", MFU {values['mfu']:.1%} of the peak in bfloat16, {values['mfu_float8']:.1%} of that in float8"
    return f", MFU {values['mfu']:.1%}" if "mfu" in values else ""


class Metrics:
    """Adds steps up and writes a line now and then. Only rank 0 writes, once `open` was called; `folder` may be None
    for no files.

    Raises:
        UserError: A tracker that the recipe names is not installed.
    """

    def __init__(
        self, recipe: Recipe, world: World, sources: Sequence[str], folder: Path | None, log: logging.Logger
    ) -> None:
        check_installed(recipe.log.trackers)
        self.recipe, self.world, self.folder, self.log = recipe, world, folder, log
        self.beside_bytes: Callable[[], int] = int  # of the GPU's memory, that torch's allocator does not know of
        self._lines_said = 0
        self._file: JsonLines | None = None
        self._trackers: Trackers | None = None
        self._furthest_step = self._redone_until = 0
        self.resume(sources, {})

    def open(self, run: str, after_step: int) -> None:
        """Go on after that step of that run: at its start, or because it went back."""
        if not self.world.leads:
            return
        if self.folder is not None and self._file is None:
            self._file = JsonLines(self.folder / "metrics.jsonl", self.log)
            self._furthest_step = self._file.furthest_step
        self._redone_until = self._furthest_step
        if self._trackers is not None:
            self._trackers.close()
        names = [*(["tensorboard"] if self.folder is not None else []), *self.recipe.log.trackers]
        recipe = self.recipe.model_dump(mode="json")
        self._trackers = Trackers(
            names, TrackerContext(run, self.recipe.name, recipe, after_step, self.folder), self.log
        )

    def resume(self, sources: Sequence[str], tokens: Mapping[str, int]) -> None:
        """Go on from so many tokens of each source; `sources` are named as a step's metrics counts them."""
        self.sources = list(sources)
        self.tokens = {name: tokens.get(name, 0) for name in self.sources}
        self._begin()

    def _begin(self) -> None:
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self._sums = [0.0] * len(self.sources)
        self._counts = [0] * len(self.sources)

    def see(self, metrics: StepMetrics, seconds: float, waited_seconds: float) -> None:
        """Count a step in: its time, which the next line's rates come from, its tokens, and its losses; one that
        changed nothing tells nothing of the loss."""
        self._seconds += seconds
        self._steps += 1
        self._waited += waited_seconds
        for at, (name, total, count) in enumerate(
            zip(self.sources, metrics.source_loss_sums, metrics.source_targets, strict=True)
        ):
            self.tokens[name] += count
            if metrics.healthy:
                self._sums[at] += total
                self._counts[at] += count

    def line(
        self, step: int, metrics: StepMetrics, lr: float, bad_steps: int, epochs: Mapping[str, float], saved_step: int
    ) -> dict[str, Any]:
        """Write what happened since the last line; return it."""
        seconds = max(self._seconds, 1e-9)
        rows = self.recipe.data.batch_rows * self._steps
        rate = rows * self.recipe.data.row_tokens / seconds
        values: dict[str, Any] = {
            "step": step,
            "loss": sum(self._sums) / sum(self._counts) if sum(self._counts) else math.nan,
            "grad_norm": metrics.grad_norm,
            "lr": lr,
            "tokens_per_second": rate,
            "tokens_per_second_per_gpu": rate / self.world.size,
            "loader_wait": self._waited / seconds,
            "tokens": sum(self.tokens.values()),
            "bad_steps": bad_steps,
            "saved_step": saved_step,
        }
        if self.world.device.type == "cuda":
            values |= utilization(self.recipe, rate / self.world.size, torch.cuda.get_device_name())
            values["memory_gib"] = (torch.cuda.max_memory_allocated() + self.beside_bytes()) / 2**30
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
        memory = f"  {values['memory_gib']:.1f} GiB" if "memory_gib" in values else ""
        self.log.info(
            f"step {step}/{self.recipe.schedule.steps}  loss {values['loss']:.4f}  norm {values['grad_norm']:.3f}  "
            f"lr {values['lr']:.3g}  {values['tokens_per_second']:,.0f} tokens/s{utilization_said(values)}{memory}  "
            f"waited {values['loader_wait']:.1%}"
        )
        self._lines_said += 1
        if self._lines_said % SOURCES_EVERY == 0 or step == self.recipe.schedule.steps:
            for name in self.sources:
                loss = f"loss {values[f'loss/{name}']:.4f}  " if f"loss/{name}" in values else ""
                self.log.info(
                    f"    {name}: {loss}{values[f'tokens/{name}']:,} tokens, {values[f'epochs/{name}']:.3f} epochs"
                )

    def event(self, values: dict[str, Any]) -> None:
        """Any other thing worth a line: a resume, a rewind, a held-out loss."""
        step = values["step"]
        self._furthest_step = max(self._furthest_step, step)
        if self._file is not None:
            redone = {"redone": True} if step <= self._redone_until and values.get("event") != "resumed" else {}
            self._file.write({**values, **redone})
        if self._trackers is not None:
            known = {
                name: float(value)
                for name, value in values.items()
                if name != "step" and isinstance(value, int | float) and math.isfinite(value)
            }
            self._trackers.log(step, known)

    def close(self) -> None:
        if self._trackers is not None:
            self._trackers.close()
        if self._file is not None:
            self._file.close()
