"""Every shipped recipe takes its first steps: three steps of the real trainer for each way to run it, a line each.

    python -m benchmarks.recipes                  all cases that the GPUs here allow; exit 1 if one fails
    python -m benchmarks.recipes --list           the cases, and nothing is run
    python -m benchmarks.recipes --only '*low*'   those whose name fits
    python -m benchmarks.recipes --dry            tiny models on a CPU, compiled as a GPU's are

A case is a recipe, a number of ranks and some changes, in a process of its own (ranks by torchrun). Its steps have the
recipe's rows and micro-batches, two of these on each rank; where a size cannot fit the GPU, layers are left out, and
the line says how many. After the steps the model is asked for losses without a gradient, as an evaluation does. Passed
is what ends with finite, falling losses, healthy steps, and weights that all ranks of a copy agree on.
"""

import argparse
import fnmatch
import json
import math
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import processes
from benchmarks.trainer import rows
from trainer import compiled
from trainer.config import RECIPES, Recipe, load_recipe
from trainer.data.batch import Batch
from trainer.distributed import float8
from trainer.distributed.fsdp import World, joined, local, reshard_model
from trainer.observe import memory_estimate
from trainer.observe.memory_snapshot import MemorySnapshot
from trainer.optim.adamw import AdamW
from trainer.step import Stepper
from trainer.train import build

STEPS = 3
ROOM = 1.15  # of what memory_estimate.minimum_need counts, of which 1.01 to 1.04 times were measured at 4,096 tokens
SECONDS = 540

LOW = "optimizer.memory=low"
#: The ways to run a recipe, with ranks and changes: the first for every recipe, the rest for the largest.
SHIPPED: tuple[tuple[str, int, tuple[str, ...]], ...] = (("as it ships", 1, ()), ("as it ships", 2, ()))
WAYS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("low", 1, (LOW,)),
    ("low, one row at once, 8 a step", 1, (LOW, "compute.micro_rows=1", "data.batch_rows=8")),
    ("low, one micro-batch", 1, (LOW, "data.batch_rows=2")),
    ("low", 2, (LOW,)),
    ("low, whole on each", 2, (LOW, "compute.shard_ranks=1")),
    ("low, float8 tensorwise", 1, (LOW, "compute.float8=tensorwise")),
    ("low, float8 rowwise, whole on each", 2, (LOW, "compute.float8=rowwise", "compute.shard_ranks=1")),
    ("low, recompute selective", 1, (LOW, "compute.recompute=selective")),
    ("low, recompute full", 1, (LOW, "compute.recompute=full")),
    ("float8 rowwise", 1, ("compute.float8=rowwise",)),
    ("float8 tensorwise, not resharded", 2, ("compute.float8=tensorwise", "compute.reshard=false")),
    ("recompute selective, float8 tensorwise", 2, ("compute.recompute=selective", "compute.float8=tensorwise")),
    ("recompute full", 2, ("compute.recompute=full",)),
    ("residual compute", 1, ("compute.residual=compute",)),
    ("not compiled", 1, ("compute.compile=false", "data.row_tokens=1024")),
    ("float32", 1, ("compute.dtype=float32", "data.row_tokens=1024")),
    ("a memory snapshot", 1, (LOW, "log.memory_snapshot_step=2")),
)
LARGEST = "bamba-9b-phase1"
TINY = (
    "model={vocab_size: 512, hidden_size: 64, mlp_size: 64, layers: 2, attention_layers: [1], attention_heads: 4, "
    "kv_heads: 2, mamba_heads: 4, mamba_head_dim: 32, mamba_state: 16}",
    "data.row_tokens=64",
    "schedule.peak_lr=1e-2",
    "schedule.warmup_steps=0",
)


@dataclass(frozen=True, slots=True)
class Case:
    recipe: str
    way: str
    ranks: int
    changes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.recipe} / {self.way} / {self.ranks} {'rank' if self.ranks == 1 else 'ranks'}"


def cases() -> list[Case]:
    """All of them, the cheapest recipe first; where ranks share rows, on as many ranks at least."""
    names = sorted((file.stem for file in RECIPES.glob("*.yaml")), key=lambda name: load_recipe(name).model.parameters)
    shared = {name: load_recipe(name).compute.context_ranks for name in names}
    found = [
        Case(name, way, -(-ranks // shared[name]) * shared[name], ()) for name in names for way, ranks, _ in SHIPPED
    ]
    found = list(dict.fromkeys(found))
    return [*found, *(Case(LARGEST, *way) for way in WAYS)]


def shaped(case: Case, there_bytes: float, tiny: bool) -> tuple[Recipe, int]:
    """The recipe of a case with two micro-batches a rank and as many layers as fit, and how many it has shipped."""
    asked = load_recipe(case.recipe, [*(TINY if tiny else ()), *case.changes])
    rows_asked = any(change.startswith("data.batch_rows") for change in case.changes)
    if not rows_asked:
        data_ranks = case.ranks // asked.compute.context_ranks
        asked = _with(asked, data={"batch_rows": 2 * asked.compute.micro_rows * data_ranks})
    recipe, layers = asked, asked.model.layers
    while recipe.model.layers > 2 and memory_estimate.minimum_need(recipe, case.ranks).total * ROOM > there_bytes:
        fewer = recipe.model.layers - 1
        mixers = asked.model.attention_layers
        kept = mixers if mixers == "all" else ([layer for layer in mixers if layer < fewer] or [fewer - 1])
        recipe = _with(recipe, model={"layers": fewer, "attention_layers": kept})
    return recipe, layers


def _with(recipe: Recipe, **parts: dict[str, Any]) -> Recipe:
    plain = recipe.model_dump(mode="json")
    return Recipe.model_validate({**plain, **{part: {**plain[part], **new} for part, new in parts.items()}})


def take(case: Case, world: World, tiny: bool) -> dict[str, Any]:
    """Three steps; what happened."""
    cuda = world.device.type == "cuda"
    there = torch.cuda.get_device_properties(world.device).total_memory if cuda else math.inf
    recipe, layers = shaped(case, there, tiny)
    model = build(recipe, world)
    optimizer = AdamW(model, recipe.optimizer, world)
    stepper = Stepper(model, optimizer, recipe.compute, world, 1)
    whole = rows(recipe.data.batch_rows // world.data_ranks, recipe, 1 + world.data_rank)
    place, places = world.context.rank, world.context.ranks
    batch = Batch.of({name: one.chunk(places, 1)[place] if one.dim() > 1 else one for name, one in whole.items()})
    with tempfile.TemporaryDirectory() as folder:
        losses, healthy, seconds = [], True, []
        snapshot = MemorySnapshot(recipe.log, world, Path(folder))
        for step in range(1, STEPS + 1):
            begun = time.perf_counter()
            recorded = snapshot.before(step)
            outcome = stepper(batch, 1e-2 if tiny else 1e-4).read()
            losses.append(outcome.loss)
            healthy &= outcome.healthy
            seconds.append(round(time.perf_counter() - begun, 2))
        recorded = recorded or snapshot.end()
        recorded_bytes = recorded.stat().st_size if recorded else 0
    with torch.no_grad():
        part = batch.micro(recipe.compute.micro_rows)[0].to(world.device)
        _, each = model.losses(part.input_ids, part.documents, part.positions, part.labels)
        reshard_model(model)
    fell = losses[-1] < losses[0]
    finite = all(map(math.isfinite, losses)) and bool(torch.isfinite(each).all())
    alike = _copies_agree(model, world)
    why = [
        word
        for word, wrong in (
            ("a step was not healthy", not healthy),
            ("not finite", not finite),
            ("the loss does not fall", not fell),
            ("no record of memory", recipe.log.memory_snapshot_step and world.leads and not recorded_bytes),
            ("ranks disagree on a vector", not alike),
        )
        if wrong
    ]
    return {
        "passed": not why,
        "why": "; ".join(why),
        "layers": f"{recipe.model.layers} of {layers}",
        "rows": f"{recipe.data.batch_rows} x {recipe.data.row_tokens}, {recipe.compute.micro_rows} at once",
        "losses": [round(loss, 3) for loss in losses],
        "step_seconds": seconds,
        "gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None,
        "least_gib": round(memory_estimate.minimum_need(recipe, world.size).total / 2**30, 1),
    }


def _copies_agree(model: torch.nn.Module, world: World) -> bool:
    """Whether what every rank holds whole is the same on all."""
    norm = model.head.norm.weight.detach()  # type: ignore[union-attr]
    sums = torch.stack([local(norm).double().sum(), local(norm).double().square().sum()])
    if world.size == 1:
        return True
    found = [torch.empty_like(sums) for _ in range(world.size)]
    torch.distributed.all_gather(found, sums)
    return all(torch.equal(one, found[0]) for one in found)


def child(case: Case, tiny: bool) -> None:
    """In a rank of its own: take the steps and print one line of JSON on rank 0."""
    if tiny:
        float8.SMALLEST = 32
    shared = load_recipe(case.recipe, case.changes).compute.context_ranks
    with joined(shared) as world, compiled.everywhere() if tiny else nullcontext():
        found = take(case, world, tiny)
        if world.leads:
            print(json.dumps(found), flush=True)


def run(case: Case, tiny: bool) -> dict[str, Any]:
    """A case in its own processes; a crash is a case that failed."""
    words = ["-m", "benchmarks.recipes", "--child", json.dumps(asdict(case)), *(["--dry"] if tiny else [])]
    end = processes.ended(processes.command(*words, ranks=case.ranks), SECONDS)
    lines = [line for line in end.said.splitlines() if line.startswith("{")]
    if end.code or not lines:
        why = f"not done after {SECONDS} s" if end.code == processes.LATE else f"exit {end.code}"
        return {"passed": False, "why": why, "stderr": [line for line in end.errors.splitlines() if line.strip()][-25:]}
    return dict(json.loads(lines[-1]))


def _skipped(case: Case, gpus: int, tiny: bool) -> str:
    """Why a case cannot be run here, or nothing."""
    if tiny:
        return "wants a GPU" if any(change.startswith("log.memory") for change in case.changes) else ""
    return "" if case.ranks <= gpus else f"{gpus} GPU here"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="the cases, and nothing is run")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases whose name fits")
    parser.add_argument("--dry", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line for each case, with all that is known")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        plain = json.loads(options.child)
        child(Case(**{**plain, "changes": tuple(plain["changes"])}), options.dry)
        return 0
    chosen = [case for case in cases() if fnmatch.fnmatch(case.name, options.only)]
    if options.list:
        for case in chosen:
            print(case.name, *case.changes, sep="  ")
        return 0
    gpus = torch.cuda.device_count()
    if not gpus and not options.dry:
        parser.error("there is no GPU here: --dry runs tiny models on a CPU")
    if not chosen:
        parser.error(f"--only {options.only}: no case has such a name (--list shows them)")
    failed = skipped = 0
    for case in chosen:
        if why := _skipped(case, gpus, options.dry):
            skipped += 1
            print(f"skipped  {case.name}: {why}", flush=True)
            continue
        found = run(case, options.dry)
        failed += not found["passed"]
        said = "  ".join(f"{key} {value}" for key, value in found.items() if key not in ("passed", "stderr") and value)
        print(f"{'passed ' if found['passed'] else 'FAILED '}  {case.name}: {said}", flush=True)
        for line in found.get("stderr", []):
            print(f"    {line}", flush=True)
        if options.json:
            device = torch.cuda.get_device_name() if gpus else "cpu"
            with options.json.open("a") as out:
                out.write(json.dumps({"device": device, "torch": torch.__version__, **asdict(case), **found}) + "\n")
    print(f"{len(chosen) - failed - skipped} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
