"""How fast the trainer is, where a step's time goes, what a checkpoint costs: real runs on made-up rows, one JSON line.

    python -m benchmarks.trainer parity                     a small hybrid here against a CPU in float32
    python -m benchmarks.trainer slice [A.B=VALUE …]        8 layers of Bamba-9B, forward and backward, no optimizer
    python -m benchmarks.trainer alone [A.B=VALUE …]        Bamba-9B on one GPU: whole steps with half the memory,
                                                            nothing is saved
    python -m benchmarks.trainer run RECIPE [A.B=VALUE …]   whole steps of a recipe, with a save and a load
    torchrun --nproc-per-node 2 -m benchmarks.trainer alone optimizer.memory=full
                                                            the same on several: 2 rows each

Rows hold documents of 40 to 2,000 tokens. Rates are the median over the last steps, of real tokens. `slice` has
bfloat16 weights, as the peers of design.md were measured, and nothing is gathered; with `--peer FOLDER` it runs
mamba_ssm's kernels in the place of ours. `--profile FILE` writes all kernels of four steps, and where the time of one
goes is told in milliseconds.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from trainer.config import Compute, Recipe, load_recipe
from trainer.data.batch import Batch
from trainer.distributed.fsdp import World, joined
from trainer.loss import backward
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig
from trainer.model.init_weights import init_weights
from trainer.observe.metrics import PEAK_FLOAT8_FLOPS, PEAK_FLOPS
from trainer.optim.adamw import AdamW
from trainer.step import PendingStepMetrics, Stepper
from trainer.train import Run, build

LOW = ["optimizer.memory=low", "compute.micro_rows=2", "data.batch_rows=2"]
SLICE = ["model.layers=8", "model.attention_layers=[4]", *LOW]
#: What a kernel, ours or mamba_ssm's, is for, by its name; the first that fits. Compiled pointwise kernels are named
#: after what they hold.
KINDS = {
    "scan": r"^_(scan|states|chunk_gradients|scores|join|finish|decays|column_sums|chunk|bmm_chunk|state_passing)",
    "conv": r"^_conv|causal_conv1d",
    "gated norm": r"^_gated_norm|^_layer_norm",
    "attention": r"flex",
    "gradient of SwiGLU": r"^_swiglu",
    "collectives": r"^nccl|symmetric_memory::|^Memcpy PtoP",
    "copies": r"split_with_sizes_copy|chunk_cat|CatArrayBatchedCopy|^Memcpy",
    "products": r"nvjet|gemm|cutlass|cublas|xmma|splitK|matmul",
    "optimizer": r"^_adamw|multi_tensor",
    "norms, residual, silu, casts, loss": r"^triton_",
}


class MadeUp:
    """Random tokens in documents of random length; the same rows every time."""

    sources = ("made up",)

    def __init__(self, recipe: Recipe, world: World) -> None:
        self.recipe, self.world, self.steps = recipe, world, 0

    @property
    def row(self) -> int:
        return self.steps * self.recipe.data.batch_rows

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            self.steps += 1
            yield rows(-(-self.recipe.data.batch_rows // self.world.size), self.recipe, self.steps + self.world.rank)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]

    def epochs(self, row: int) -> dict[str, float]:
        return {"made up": 0.0}

    def skip(self, first_row: int, rows: int, why: str) -> None:
        raise NotImplementedError

    def held_out(self) -> tuple[Sequence[str], Iterable[dict[str, Tensor]]]:
        return self.sources, []

    def close(self) -> None:
        """Nothing is open."""


def rows(count: int, recipe: Recipe, seed: int) -> dict[str, Tensor]:
    """Rows as the loader yields them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = recipe.data.row_tokens
    ids = torch.randint(0, recipe.model.vocab_size, (count, tokens), generator=generator)
    lengths = torch.randint(40, 2000, (count, tokens // 40 + 1), generator=generator)
    ends = lengths.cumsum(1)
    places = torch.arange(tokens).expand(count, -1).contiguous()
    documents = torch.searchsorted(ends, places, right=True)
    starts = torch.cat([torch.zeros(count, 1, dtype=torch.int64), ends], 1).gather(1, documents)
    labels = ids.roll(-1, 1)
    labels[torch.cat([documents[:, 1:] != documents[:, :-1], torch.ones(count, 1, dtype=torch.bool)], 1)] = -100
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": places - starts,
        "seq_idx": documents.int(),
        "row": torch.arange(count),
        "source": torch.zeros(count, dtype=torch.int64),
    }


def parity(world: World) -> dict[str, Any]:
    """Loss and gradients on this device, in float32 and bfloat16, against float32 on a CPU; relative errors."""
    config = ModelConfig(
        vocab_size=997,
        hidden_size=256,
        mlp_size=512,
        layers=4,
        attention_layers=[2],
        attention_heads=4,
        kv_heads=2,
        mamba_heads=8,
    )
    recipe = load_recipe("bamba-9b-phase1", ["data.row_tokens=384"]).model_copy(update={"model": config})
    batch = rows(2, recipe, 3)
    given = [batch[name] for name in ("input_ids", "seq_idx", "position_ids", "labels")]
    reference = Bamba(config)
    init_weights(reference, config, 1)
    loss, _ = reference.losses(*given)
    loss.backward()
    found: dict[str, Any] = {"loss": loss.item()}
    for dtype in ("float32", "bfloat16"):
        for compiled in (False, True) if world.device.type == "cuda" else (False,):
            with torch.device("meta"):
                model = Bamba(config)
            from trainer.distributed.fsdp import distribute, local

            distribute(model, Compute(dtype=dtype, compile=compiled), world)  # type: ignore[arg-type]
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), reference.parameters(), strict=True):
                    local(parameter).copy_(value)
            mine, _ = model.losses(*(tensor.to(world.device) for tensor in given))
            mine.backward()
            worst = max(
                ((local(a.grad).cpu() - b.grad).norm() / b.grad.norm()).item()  # type: ignore[arg-type, union-attr]
                for a, b in zip(model.parameters(), reference.parameters(), strict=True)
            )
            found[f"{dtype}{' compiled' if compiled else ''}"] = {
                "loss": (mine.item() - loss.item()) / loss.item(),
                "worst_gradient": worst,
            }
    return found


def slice_of_9b(world: World, profile: str | None, changes: list[str], peer: Path | None = None) -> dict[str, Any]:
    """Forward and backward of 2 rows of 4,096 tokens, as design.md's peers were measured. With `peer`, the folder of
    benchmarks.kernels, mamba_ssm's fused function stands in the place of ours, and all else is the same; it cannot be
    compiled, so a block is compiled in pieces around it."""
    recipe = load_recipe("bamba-9b-phase1", [*SLICE, *changes])
    with _mixed_by(peer) if peer else nullcontext():
        model = build(recipe, world)
    batch = {name: value.to(world.device) for name, value in rows(2, recipe, 1).items()}
    given = [batch[name] for name in ("input_ids", "seq_idx", "position_ids", "labels")]
    scale = torch.full((), 1e-4, device=world.device)

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        total, _ = model.losses(*given, scale)
        backward(total)

    taken = _timed(step, world.device, 12)
    seconds = statistics.median(taken[4:])
    return {
        "mamba2": "mamba_ssm" if peer else "ours",
        "changes": changes,
        "tokens_per_second": 2 * recipe.data.row_tokens / seconds,
        "first_step_seconds": taken[0],
        "memory_gib": _memory_gib(world),
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "milliseconds": where(step, world, profile),
    }


@contextmanager
def _mixed_by(folder: Path) -> Iterator[None]:
    """From here on, mamba_ssm computes what is between a Mamba block's linears; the models that are built meanwhile are
    compiled in pieces, as that needs."""
    from benchmarks import kernels
    from trainer.distributed import fsdp
    from trainer.model import mamba2

    kernels.build_peer_conv(folder)
    theirs, _ = kernels.peer_functions(folder, chunk=256)

    def mix(zxbcdt: Tensor, *rest: Any) -> Tensor:
        weight, bias, *vectors, documents, _ = rest
        return theirs([zxbcdt, weight.bfloat16(), bias.bfloat16(), *vectors], documents)  # type: ignore[no-any-return]

    mamba2.mix = torch._dynamo.disable(mix)
    with mock.patch.object(fsdp, "_computed", lambda forward, compute: torch.compile(forward)):
        yield


def alone(world: World, profile: str | None, changes: list[str], name: str, count: int = 12) -> dict[str, Any]:
    """A recipe whole on one GPU: steps of the trainer with their update, but no checkpoints."""
    recipe = load_recipe(name, [*LOW, *changes])
    started = time.perf_counter()
    model = build(recipe, world)
    optimizer = AdamW(model, recipe.optimizer, world)
    stepper = Stepper(model, optimizer, recipe.compute, world, 1)
    batch = Batch.of(rows(recipe.data.batch_rows, recipe, 1))
    ready = time.perf_counter() - started
    losses: list[float] = []
    pending: deque[PendingStepMetrics] = deque()
    updates: list[Any] = []

    def mark() -> None:
        if world.device.type == "cuda":
            updates.append(torch.cuda.Event(enable_timing=True))
            updates[-1].record()

    def step() -> None:
        pending.append(stepper(batch, 1e-4, before_update=mark))
        mark()
        if len(pending) > 1:  # as a run does: what a step did is read while the next one is computed
            losses.append(round(pending.popleft().read().loss, 4))

    taken = _timed(step, world.device, count)
    losses.append(round(pending.popleft().read().loss, 4))
    seconds = statistics.median(taken[2:])
    rate = recipe.data.batch_rows * recipe.data.row_tokens / seconds
    pairs = zip(updates[::2], updates[1::2], strict=True)
    update = statistics.median(before.elapsed_time(after) for before, after in pairs) if updates else None
    return {
        "changes": changes,
        "parameters": recipe.model.parameters,
        "seconds_until_ready": ready,
        "first_step_seconds": taken[0],
        "tokens_per_second": rate,
        "model_tflops": rate * recipe.model.flops_per_token(recipe.data.row_tokens) / 1e12,
        "memory_gib": _memory_gib(world, stepper.gradients.device_bytes()),
        "step_seconds": [round(one, 4) for one in taken],
        "update_milliseconds": update,
        "losses": losses,
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "milliseconds": where(step, world, profile),
    }


def where(step: Callable[[], None], world: World, file: str | None, count: int = 4) -> dict[str, float] | None:
    """The milliseconds of a step by kind of kernel, the mean of some more steps in a row; `gaps` is the time from the
    first kernel to the last in which none but a collective runs: so it holds what is waited for of those."""
    if world.device.type != "cuda":
        return None
    step()  # so that the first one is met by a GPU as warm as in the middle of a run
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(count):
            step()
        torch.cuda.synchronize()
    found = dict.fromkeys([*KINDS, "rest"], 0.0)
    spans = []
    for event in profiler.events() or []:
        kind = next((kind for kind, names in KINDS.items() if re.search(names, event.name)), "rest")
        span = (event.time_range.start, event.time_range.end)
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        found[kind] += (span[1] - span[0]) / 1000 / count
        if kind != "collectives":
            spans.append(span)
    if file:
        table = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=110)
        Path(file).write_text(table)
    found["gaps"] = (max(end for _, end in spans) - min(start for start, _ in spans) - _covered(spans)) / 1000 / count
    found["step"] = sum(value for kind, value in found.items() if kind != "collectives")
    return {kind: round(value, 2) for kind, value in found.items()}


def _covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def _memory_gib(world: World, beside_bytes: int = 0) -> float | None:
    return (torch.cuda.max_memory_allocated() + beside_bytes) / 2**30 if world.device.type == "cuda" else None


def _timed(work: Callable[[], None], device: torch.device, count: int) -> list[float]:
    """Seconds from the end of one call on the device to that of the next. As in a run, the host is one call ahead."""
    if device.type != "cuda":
        ends = [time.perf_counter(), *(_ended(work) for _ in range(count))]
        return [after - before for before, after in pairwise(ends)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for before, after in pairwise(marks):
        work()
        after.record()
        before.synchronize()
    marks[-1].synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]


def _ended(work: Callable[[], None]) -> float:
    work()
    return time.perf_counter()


def run(world: World, name: str, changes: list[str]) -> dict[str, Any]:
    """16 steps with a save after step 8; then another run that loads it."""
    steps = ["schedule.steps=16", "schedule.warmup_steps=4", "checkpoints.every_steps=8", "log.every_steps=1"]
    recipe = load_recipe(name, [*steps, *changes])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run" if world.size == 1 else Path("/tmp/benchmark-run")
        first = Run(recipe, MadeUp(recipe, world), world, str(out), out)
        first.begin()
        stalls: list[float] = []
        save, staged = first.checkpointer.save, first.checkpointer.staged

        def timed(call: Any) -> Any:
            def wrapped(*args: Any) -> None:
                before = time.perf_counter()
                call(*args)
                stalls.append(time.perf_counter() - before)

            return wrapped

        first.checkpointer.save, first.checkpointer.staged = timed(save), timed(staged)  # type: ignore[method-assign]
        graphs_at: list[int] = []
        step = first._step

        def counted(batches: Any) -> bool:
            answer = step(batches)
            graphs_at.append(counters["stats"]["unique_graphs"])
            return answer

        first._step = counted  # type: ignore[method-assign]
        first.train()
        first.close()
        text = (out / "metrics.jsonl").read_text() if world.leads else ""
        lines = [line for line in map(json.loads, text.splitlines()) if "loss" in line]
        before = time.perf_counter()
        second = Run(recipe, MadeUp(recipe, world), world, str(out), None)
        second.begin()
        loaded = time.perf_counter() - before
        second.close()
    rates = [line["tokens_per_second_per_gpu"] for line in lines]
    return {
        "recipe": name,
        "parameters": recipe.model.parameters,
        "tokens_per_second_per_gpu": statistics.median(rates[3:8]) if rates else None,
        "mfu": statistics.median(line.get("mfu", 0) for line in lines[3:8]) if rates else None,
        "mfu_float8": statistics.median(line.get("mfu_float8", 0) for line in lines[3:8]) if rates else None,
        "memory_gib": max(line.get("memory_gib", 0) for line in lines) if rates else None,
        "losses": [round(line["loss"], 4) for line in lines],
        "rates": [round(rate) for rate in rates],
        "host_seconds_in_saves": [round(stall, 3) for stall in stalls if stall > 0.01],
        "build_and_load_seconds": loaded,
        "steps_done_after_load": second.done_steps,
        "graphs_at": graphs_at,
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["parity", "slice", "alone", "run"])
    parser.add_argument(
        "changes", nargs="*", metavar="A.B=VALUE", help="of the recipe; after `run` comes its name first"
    )
    parser.add_argument("--profile", help="a file for all kernels of four steps")
    parser.add_argument("--recipe", default="bamba-9b-phase1", help="alone: another one")
    parser.add_argument("--peer", type=Path, help="slice: the folder of benchmarks.kernels, for mamba_ssm's kernels")
    options = parser.parse_intermixed_args()
    name, changes = (options.changes[:1], options.changes[1:]) if options.what == "run" else ([], options.changes)
    if (options.what == "run" and not name) or not all("=" in change for change in changes):
        parser.error("changes are A.B=VALUE, and `run` wants the name of a recipe before them")
    if options.peer and (options.what != "slice" or not (options.peer / "csrc").is_dir()):
        parser.error(f"--peer {options.peer}: belongs to slice, and is a folder with csrc and site (docs/kernels.md)")
    with joined() as world:
        if options.what == "parity":
            found = parity(world)
        elif options.what == "slice":
            found = slice_of_9b(world, options.profile, changes, options.peer)
        elif options.what == "alone":
            found = alone(world, options.profile, changes, options.recipe)
        else:
            found = run(world, name[0], changes)
        device = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
        if world.leads:
            known = {"benchmark": options.what, "device": device, "ranks": world.size, "torch": torch.__version__}
            peaks = {"peak_flops": PEAK_FLOPS, "peak_float8_flops": PEAK_FLOAT8_FLOPS}
            known |= {
                name: next((flops for kind, flops in peak.items() if kind in device), None)
                for name, peak in peaks.items()
            }
            print(json.dumps({**known, **found}))


if __name__ == "__main__":
    main()
