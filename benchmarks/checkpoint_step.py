"""A checkpoint of a whole model beside its steps, over all ranks: what a step waits for it, how fast it is on the disk
and back. One save, and a JSON line for each thing as soon as it is known, so that a run past its time loses nothing.

    torchrun --nproc-per-node 2 -m benchmarks.checkpoint_step RECIPE FOLDER [A.B=VALUE …]
    python -m benchmarks.checkpoint_step tiny-cpu FOLDER                                   a dry run

Rows are made up, `data.batch_rows` for each rank. The lines, of all ranks together (GB are 1e9 bytes, seconds are those
of the slowest rank):

    start        the recipe, how large its checkpoint is, where it runs
    memory       taking the host's memory for the copy, which a run does once
    disk before  the disk alone: a plain file a rank past the cache, by as many threads and in such blocks as a
                 checkpoint, written with its fsync, and read
    steps        before the save: the first, and the median and the longest of those after the second
    stall        the longest of the three steps that begin with the save, and by how much it is longer than that median
    saved        from the save to its commit; the steps beside it and until all ranks knew
    disk after   the disk alone again, in what room the checkpoint leaves
    loaded       back into the same state, with the files out of the cache, and whether the bits are those of the save

FOLDER/checkpoint-step is made anew and removed at the end; what a killed one leaves the next one removes. Exit code 1
where other bits came back.
"""

import argparse
import json
import logging
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import xxhash
from torch import Tensor

from bamba_data.errors import BambaError
from bamba_data.storage.store import LocalStore
from benchmarks.checkpoint import GB, State, computed, forget, read_past, settle, timed, write_past
from benchmarks.measure import machine
from benchmarks.trainer import rows
from trainer.checkpoint.direct import BLOCK_BYTES
from trainer.checkpoint.free_space import bytes_of, free_bytes
from trainer.checkpoint.manager import Checkpointer
from trainer.checkpoint.pieces import in_threads, size_bytes, threads
from trainer.config import Checkpoints, Recipe, load_recipe
from trainer.data.batch import Batch
from trainer.distributed.consistency import from_rank_zero, gathered
from trainer.distributed.fsdp import World, joined, local
from trainer.optim.adamw import AdamW
from trainer.step import PendingStepMetrics, StepMetrics, Stepper
from trainer.train import build

WARM = 8  # steps after the first two
BESIDE = 3  # steps among which the copy surely ends: the first one's update waits for it


class Steps:
    """A run's steps on the same rows again and again. As in a run the host is one ahead of the device."""

    def __init__(self, recipe: Recipe, world: World) -> None:
        self.world = world
        self.model = build(recipe, world)
        self.optimizer = AdamW(self.model, recipe.optimizer, world)
        self.stepper = Stepper(self.model, self.optimizer, recipe.compute, world, 1)
        self.batch = Batch.of(rows(recipe.data.batch_rows, recipe, 1 + world.rank))
        self.seconds: list[float] = []  # of each step
        self._pending: deque[PendingStepMetrics] = deque()
        self.pause()

    def state(self) -> State:
        """As of a run: see `trainer.train.Run`."""
        self.stepper.gradients.weights_settled()
        named = {f"model.{name}": value.detach() for name, value in self.model.named_parameters()}
        return named | {f"optimizer.{name}": value for name, value in self.optimizer.state()}

    def pause(self) -> None:
        """The next step's seconds begin here."""
        self._last = PendingStepMetrics(torch.zeros(1, device=self.world.device))

    def take(
        self, most: int, before_update: Callable[[], None] = lambda: None, ended: Callable[[], bool] = lambda: False
    ) -> None:
        """So many steps, or fewer: until a step has told all ranks that it has `ended` for one."""
        for _ in range(most):
            self._pending.append(self.stepper(self.batch, 1e-4, stop=ended(), before_update=before_update))
            if len(self._pending) > 1 and self._read().stop:
                break
        while self._pending:
            self._read()

    def _read(self) -> StepMetrics:
        pending = self._pending.popleft()
        metrics = pending.read()
        self.seconds.append(pending.seconds_after(self._last))
        self._last = pending
        return metrics


def bits(state: State) -> list[str]:
    """A digest of what this rank holds of each tensor."""
    held = [local(tensor).detach() for tensor in state.values()]
    return in_threads([partial(_digest, one) for one in held], [size_bytes(one) for one in held])


def _digest(tensor: Tensor) -> str:
    data = tensor.contiguous().view(-1).view(torch.uint8)
    block = torch.empty(min(BLOCK_BYTES, len(data)), dtype=torch.uint8, pin_memory=data.is_cuda)
    summed = xxhash.xxh3_128()
    for start in range(0, len(data), BLOCK_BYTES):
        part = data[start : start + BLOCK_BYTES]
        summed.update(block[: len(part)].copy_(part).numpy().data)
    return summed.hexdigest()


def slowest(seconds: float) -> float:
    return float(max(gathered(seconds)))


def together(work: Callable[[], Any]) -> float:
    """Seconds of the slowest rank, from when all are there."""
    gathered(None)
    return slowest(timed(work))


def disk(store: LocalStore, gigabytes: float, world: World) -> dict[str, Any]:
    """What the disk of `store` does alone: GB/s of all ranks, written and read past the cache."""
    room = from_rank_zero(free_bytes(store))
    mine = int(min(gigabytes * GB, 0.9 * (room or 0))) // world.size // BLOCK_BYTES * BLOCK_BYTES
    if not mine:
        return {"gigabytes": 0.0}  # no room
    file = store.root / f"disk-{world.rank}"
    try:
        wrote = together(partial(write_past, file, mine, threads()))
        read = together(partial(read_past, file, threads()))
    finally:
        file.unlink(missing_ok=True)
    size = mine * world.size / GB
    return {"gigabytes": size, "written_gb_per_second": size / wrote, "read_gb_per_second": size / read}


def tell(world: World, what: str, **values: Any) -> None:
    if world.leads:
        line = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        print(json.dumps({"told": what, **line}), flush=True)


def measure(recipe: Recipe, folder: Path, world: World, gigabytes: float) -> bool:
    """Whether the bits that came back are those that were saved. `gigabytes`: for the disk alone."""
    began = time.perf_counter()
    steps = Steps(recipe, world)
    known = {"ranks": world.size, "threads": threads(), "torch": torch.__version__, "machine": machine()}
    known["device"] = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
    size = bytes_of(steps.state()) / GB
    built = slowest(time.perf_counter() - began)
    tell(world, "start", recipe=recipe.name, gigabytes=size, build_seconds=built, **known)
    store = LocalStore(folder)
    ours = Checkpointer(store, Checkpoints(), world, logging.getLogger(__name__))
    ours.take()
    try:
        tell(world, "memory", seconds=together(lambda: (ours.prepare(steps.state()), ours.ready())))
        ours.check_room()
        tell(world, "disk before", **disk(store, gigabytes, world))
        saved = save(steps, ours, recipe, world)
        tell(world, "disk after", **disk(store, gigabytes, world))
        return load(steps.state(), saved, ours, world)
    finally:
        ours.close()


def save(steps: Steps, ours: Checkpointer, recipe: Recipe, world: World) -> list[str]:
    """The digests of what was saved."""
    steps.pause()
    steps.take(2 + WARM)
    warm = steps.seconds[2:]
    usual = median(warm)
    first = steps.seconds[0]
    tell(world, "steps", first_seconds=first, median_seconds=usual, longest_seconds=slowest(max(warm)))

    state = steps.state()
    found = bits(state)
    computed(state, 0.5)  # a GPU that did nothing meanwhile is slow for its first moments
    gathered(None)
    steps.pause()
    began = time.perf_counter()
    ours.save(len(steps.seconds), state, {"recipe": recipe.model_dump(mode="json"), "changes": []})
    called = time.perf_counter() - began
    ended: list[float] = []
    if ours._writing is not None:
        ours._writing.ended.add_done_callback(lambda _: ended.append(time.perf_counter()))
        steps.take(BESIDE, ours.staged)
        longest = slowest(max(steps.seconds[-BESIDE:]))
        stall, call = longest - usual, slowest(called)
        tell(world, "stall", longest_step_seconds=longest, stall_seconds=stall, of_the_call_seconds=call)
        steps.pause()
        steps.take(sys.maxsize, ours.staged, lambda: world.leads and bool(ended))
    if (failed := ours.finish()) is not None:
        raise failed.error
    seconds = from_rank_zero(ended[0] - began if world.leads else None)
    rate, beside = bytes_of(state) / GB / seconds, steps.seconds[2 + WARM :]
    taken = {"steps": len(beside), "median_seconds": median(beside), "longest_seconds": slowest(max(beside))}
    tell(world, "saved", seconds=seconds, gb_per_second=rate, **taken)
    return found


def load(state: State, saved: list[str], ours: Checkpointer, world: World) -> bool:
    """Whether that is what came back."""
    for tensor in state.values():
        local(tensor).zero_()
    settle(state)
    forget(Path(ours.store.url))
    seconds = together(lambda: (ours.restore(state, lambda commit: None), settle(state)))
    same = all(gathered(bits(state) == saved))
    tell(world, "loaded", seconds=seconds, gb_per_second=bytes_of(state) / GB / seconds, same_bits=same)
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("changes", nargs="*", metavar="A.B=VALUE", help="of the recipe")
    parser.add_argument("--disk-gigabytes", type=float, default=8.0, help="written and read to measure the disk alone")
    parser.add_argument("--keep", action="store_true", help="the checkpoint stays")
    options = parser.parse_intermixed_args()
    folder = options.folder / "checkpoint-step"
    try:
        recipe = load_recipe(options.recipe, options.changes)
        with joined() as world:
            if world.leads:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            gathered(None)
            try:
                return int(not measure(recipe, folder, world, options.disk_gigabytes))
            finally:
                if world.leads and not options.keep:
                    shutil.rmtree(folder, ignore_errors=True)
    except (BambaError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
