"""Rows that several GPUs share, beside GPUs with rows of their own: what differs, and how fast; one JSON line each.

    torchrun --nproc-per-node 2 -m benchmarks.context parity              a Mamba2 block and a small hybrid: parts of
                                                                          rows and whole rows, against float64, float32
    torchrun --nproc-per-node 2 -m benchmarks.context speed RECIPE [A.B=VALUE …]
                                                                          whole steps: data ranks alone, then context
                                                                          ranks, the same tokens, in one run
    torchrun --nproc-per-node 2 -m benchmarks.context row RECIPE [A.B=VALUE …]
                                                          whole steps of one row that all share: what fits

`speed` gives each GPU a row a step; the ranks that share rows take as many parts of rows at once, so that as many
tokens go through a GPU. All of a row is one document, so that every state passes every cut, and attention sees all.
With `--small` a model that fits a CPU takes the recipe's place: a dry run.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from trainer.config import load_recipe
from trainer.context.group import ALONE
from trainer.context.mix_op import mix_context
from trainer.data.batch import Batch
from trainer.distributed.fsdp import World, joined
from trainer.kernels import ops
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig
from trainer.model.init_weights import init_weights
from trainer.observe.metrics import PEAK_FLOPS
from trainer.optim.adamw import AdamW
from trainer.step import PendingStepMetrics, Stepper
from trainer.train import build

EPS = 1e-5
WARM_STEPS = 3
SMALL = {
    "vocab_size": 997,
    "hidden_size": 256,
    "mlp_size": 512,
    "layers": 4,
    "attention_layers": [2],
    "attention_heads": 4,
    "kv_heads": 2,
    "mamba_heads": 8,
}


def part(rows: Tensor, world: World) -> Tensor:
    """This rank's tokens of (rows, tokens, …)."""
    return rows.chunk(world.context.ranks, 1)[world.context.rank].contiguous()


def documents_of(rows: int, tokens: int) -> Tensor:
    """Two documents: the first ends a third into the row."""
    return (torch.arange(tokens).expand(rows, tokens) * 3 >= tokens).int()


def relative(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def block(world: World, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    """Errors of a Mamba2 block's output and gradients against float64, of parts and of the whole rows."""
    heads, head_dim, state = 8, 64, 128
    make = torch.Generator().manual_seed(1)
    inner = heads * head_dim
    channels = inner + 2 * state
    shapes = ((2, tokens, inner + channels + heads), (channels, 4), (channels,), (heads,), (heads,), (heads,), (inner,))
    drawn = [torch.randn(shape, generator=make, dtype=torch.float64) for shape in shapes]
    drawn[3], drawn[5], drawn[1] = drawn[3].abs().log() - 3, drawn[5] - 4, drawn[1] / 2  # states that last
    documents = documents_of(2, tokens).to(world.device)
    weights = torch.randn(2, tokens, inner, generator=make, dtype=torch.float64).to(world.device)
    given = [one.to(world.device) for one in drawn]
    names = ("dz", "conv_weight", "conv_bias", "A_log", "D", "dt_bias", "norm_weight")

    def graded(shared: bool, large: torch.dtype, small: torch.dtype) -> dict[str, Tensor]:
        first = (part(given[0], world) if shared else given[0]).to(large)
        leaves = [one.detach().clone().requires_grad_() for one in (first, *(one.to(small) for one in given[1:]))]
        if shared:
            mine = tokens // world.context.ranks
            before = pad(documents, (3, 0), value=-1)[:, world.context.rank * mine :][:, :3]
            out = mix_context(*leaves, part(documents, world), before, EPS, world.context)
            own = part(weights, world)
        else:
            out, own = ops.mix(*leaves, documents, EPS), weights
        grads = torch.autograd.grad((out.double() * own).sum(), leaves)
        found = {"out": out.detach().double(), **{n: g.double() for n, g in zip(names, grads, strict=True)}}
        if shared:
            for name in names[1:]:
                dist.all_reduce(found[name])
            for name in ("out", "dz"):
                parts = [torch.empty_like(found[name]) for _ in range(world.size)]
                dist.all_gather(parts, found[name].contiguous())
                found[name] = torch.cat(parts, 1)
        return found

    wanted = graded(False, torch.float64, torch.float64)
    found = {}
    for name, shared in (("parts", True), ("rows", False)):
        errors = graded(shared, dtype, torch.float32)
        found[name] = {key: relative(errors[key], one) for key, one in wanted.items()}
    return found


def hybrid(world: World, tokens: int) -> dict[str, Any]:
    """Loss and the worst gradient of a small hybrid against float32 on a CPU, of parts and of the whole rows."""
    config = ModelConfig(**SMALL)
    make = torch.Generator().manual_seed(3)
    ids = torch.randint(0, config.vocab_size, (2, tokens + 1), generator=make)
    documents = documents_of(2, tokens)
    positions = torch.arange(tokens) - torch.where(documents == 1, (documents == 0).sum(1, keepdim=True), 0)
    rows = [ids[:, :-1], documents, positions, ids[:, 1:]]

    def graded(shared: bool, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        made = Bamba(config)
        init_weights(made, config, 1)
        made.to(device)
        for parameter in made.parameters():
            if parameter.dim() > 1 and parameter.shape[-1] > 4:
                parameter.data = parameter.data.to(dtype)
        if shared:
            made.context = world.context
        loss, _ = made.losses(*((part(one, world) if shared else one).to(device) for one in rows))
        loss.backward()
        found = {name: p.grad.double() for name, p in made.named_parameters() if p.grad is not None}
        found["loss"] = loss.detach().double()
        if shared:
            for one in found.values():
                dist.all_reduce(one)
        return found

    wanted = graded(False, torch.device("cpu"), torch.float32)
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, shared in (("parts", True), ("rows", False)):
            got = graded(shared, world.device, dtype)
            errors = {key: relative(got[key].cpu(), one) for key, one in wanted.items()}
            loss, worst = errors.pop("loss"), max(errors, key=lambda key: errors[key])
            found[f"{name}, {dtype}"] = {"loss": loss, "gradient": errors[worst], "of": worst}
    return found


def steps_of(world: World, at_once: int, name: str, changes: list[str], small: bool, count: int) -> dict[str, Any]:
    """Whole steps of a recipe: `count` after some to warm up, by the median. The ranks that share rows take `at_once`
    of them."""
    ranks = world.context.ranks
    every = at_once * world.data_ranks
    own = [f"compute.context_ranks={ranks}", f"compute.micro_rows={at_once}", f"data.batch_rows={every}"]
    recipe = load_recipe(name, [*own, *changes])
    if small:
        recipe = recipe.model_copy(update={"model": ModelConfig(**SMALL)})
    tokens = recipe.data.row_tokens
    model = build(recipe, world)
    optimizer = AdamW(model, recipe.optimizer, world)
    stepper = Stepper(model, optimizer, recipe.compute, world, 1)
    everyone = torch.randint(
        0, recipe.model.vocab_size, (every, tokens + 1), generator=torch.Generator().manual_seed(1)
    )
    ids = everyone[world.data_rank * at_once :][:at_once]
    rows = (ids[:, :-1], ids[:, 1:], torch.arange(tokens).expand(at_once, -1), torch.zeros(at_once, tokens).int())
    numbers = torch.arange(at_once) + world.data_rank * at_once
    batch = Batch(*(part(one, world) for one in rows), numbers, torch.zeros(at_once, dtype=torch.int64))
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = [*_taken(stepper, batch, WARM_STEPS + count)]
    losses = [round(one.read().loss, 4) for one in taken]  # and so all of them are done
    seconds = statistics.median(
        after.seconds_after(before) for before, after in zip(taken[WARM_STEPS - 1 :], taken[WARM_STEPS:], strict=False)
    )
    rate = every * tokens / seconds / world.size
    return {
        "context_ranks": ranks,
        "row_tokens": tokens,
        "tokens_per_second_per_gpu": rate,
        "model_tflops": rate * recipe.model.flops_per_token(tokens) / 1e12,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if world.device.type == "cuda" else None,
        "losses": losses,
    }


def _taken(stepper: Stepper, batch: Batch, count: int) -> Iterator[PendingStepMetrics]:
    """The metrics of each step; as in a run, the host is one step ahead."""
    before: PendingStepMetrics | None = None
    for _ in range(count):
        now = stepper(batch, 1e-4)
        if before is not None:
            before.read()
        before = now
        yield now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["parity", "speed", "row"])
    parser.add_argument(
        "changes", nargs="*", metavar="A.B=VALUE", help="after `speed` or `row`, the name of a recipe first"
    )
    parser.add_argument("--ranks", type=int, help="that share a row; all of them without it")
    parser.add_argument("--tokens", type=int, default=1536, help="parity: of a row")
    parser.add_argument("--steps", type=int, default=8, help="speed and row: that are timed")
    parser.add_argument("--small", action="store_true", help="speed and row: a model that fits a CPU")
    options = parser.parse_intermixed_args()
    if (options.what == "parity") == bool(options.changes) or (options.changes and "=" in options.changes[0]):
        parser.error("`speed` and `row` want the name of a recipe, then changes A.B=VALUE; `parity` wants neither")
    with joined(options.ranks or int(os.environ.get("WORLD_SIZE", "1"))) as world:
        device = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
        peak = next((flops for kind, flops in PEAK_FLOPS.items() if kind in device), None)
        known = {"benchmark": f"context {options.what}", "device": device, "ranks": world.size}
        if options.what == "parity":
            if world.context.ranks != world.size:
                parser.error("parity: all ranks share the rows")
            dtypes = (torch.float32, torch.bfloat16)
            found: dict[str, Any] = {f"block, {dtype}": block(world, options.tokens, dtype) for dtype in dtypes}
            found["hybrid"] = hybrid(world, options.tokens)
        elif options.what == "row":
            if world.context.ranks != world.size:
                parser.error("row: all ranks share it")
            name, *changes = options.changes
            found = {"context": steps_of(world, 1, name, changes, options.small, options.steps)}
        else:
            name, *changes = options.changes
            worlds = {"data": replace(world, context=ALONE), "context": world}
            found = {
                key: steps_of(one, one.context.ranks, name, changes, options.small, options.steps)
                for key, one in worlds.items()
            }
            rates = {key: one["tokens_per_second_per_gpu"] for key, one in found.items()}
            found["context_over_data"] = rates["context"] / rates["data"]
        if world.leads:
            print(json.dumps({**known, "torch": torch.__version__, "peak_flops": peak, **found}))


if __name__ == "__main__":
    main()
