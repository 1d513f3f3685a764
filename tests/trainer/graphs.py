"""`python -m tests.trainer.graphs`: compile the blocks of a deep hybrid in every way to recompute; one JSON line with
the loss, a gradient's norm, how many graphs were made after each step, and how often one broke. The same of three
micro-batches in bfloat16, whose gradients products sum."""

import json
from typing import Any

import torch
from torch._dynamo.utils import counters

from tests.trainer.small import CONFIG, packed
from trainer.config import Compute
from trainer.distributed.fsdp import World, distribute, joined
from trainer.loss import backward
from trainer.model.bamba import Bamba
from trainer.model.init_weights import init_weights
from trainer.optim.gradient_sync import GradientSync

DEEP = CONFIG.model_copy(update={"layers": 12, "attention_layers": [3, 7]})


def main() -> None:
    found = {}
    plain = torch.compile
    # What is under test is how the graphs are captured; generating machine code for them takes minutes on a CPU.
    torch.compile = lambda work, **rest: plain(work, backend="aot_eager", **rest)  # type: ignore[assignment]
    with joined() as world:
        for compiled, recompute in ((False, "none"), (True, "none"), (True, "selective"), (True, "full")):
            torch._dynamo.reset()
            counters.clear()
            with torch.device("meta"):
                model = Bamba(DEEP, chunk_tokens=64)
            distribute(model, Compute(dtype="float32", compile=compiled, recompute=recompute), world)  # type: ignore[arg-type]
            init_weights(model, DEEP, 1)
            graphs = []
            for seed in range(3):
                loss, _ = model.losses(*packed([40, 30], seed=seed))
                loss.backward()
                graphs.append(counters["stats"]["unique_graphs"])
            found[f"{recompute}{' compiled' if compiled else ''}"] = {
                "loss": loss.item(),
                "gradient": model.blocks[0].mlp.down.weight.grad.full_tensor().norm().item(),
                "graphs": graphs,
                "breaks": sum(counters["graph_break"].values()),
            }
        for compiled, recompute in ((False, "none"), (True, "none"), (True, "selective"), (True, "full")):
            found[f"summed {recompute}{' compiled' if compiled else ''}"] = summed(world, compiled, recompute)
    print(json.dumps(found))


def summed(world: World, compiled: bool, recompute: str) -> dict[str, Any]:
    """Of one step."""
    torch._dynamo.reset()
    counters.clear()
    compute = Compute(dtype="bfloat16", compile=compiled, recompute=recompute)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = Bamba(DEEP, chunk_tokens=64)
    distribute(model, compute, world, low_memory=True)
    init_weights(model, DEEP, 1)
    sync = GradientSync(model, compute, world, low_memory=True)
    graphs = []
    for seed in range(3):
        sync.before_backward(last=seed == 2)
        loss, _ = model.losses(*packed([40, 30], seed=seed))
        backward(loss)
        graphs.append(counters["stats"]["unique_graphs"])
    sync.finish()
    return {
        "loss": loss.item(),
        "gradient": model.blocks[0].mlp.down.weight.grad.norm().item(),  # type: ignore[union-attr]
        "graphs": graphs,
        "breaks": sum(counters["graph_break"].values()),
    }


if __name__ == "__main__":
    main()
