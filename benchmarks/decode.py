"""How fast texts are written on: the hybrid beside a transformer of the same widths, on one GPU, by the same code.

    python -m benchmarks.decode [--recipe bamba-9b-phase1] [--batches 1x1024,64x1024] [--new 64] [--layers N]
    python -m benchmarks.decode --curve [--in 1024] [--outs 2048,…,65536] [--out FILE] [--device cpu --memory-gb 4]

Weights are drawn. The tokens a second are of all rows, from the second replay of the step on; the floor beside them is
the bytes of weights, states, keys and values that a step reads and writes, over the bandwidth of a large copy.

`--curve` is the claim that matters where memory is the limit: of texts from `--in` tokens to each of `--outs` more, as
many at once as memory has room for (256 at most), the tokens a second of a step at the context in the mean, in + out/2.
What the rows remember is made up, not read: a step costs the same. `--out` takes the lines that `bamba-data model
arithmetic --plot-generation FILE --measured FILE` draws beside what the bytes allow.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from trainer.config import load_recipe
from trainer.decode import memory
from trainer.decode.memory import OWN, Memory
from trainer.decode.writing import Step, written
from trainer.kernels.shapes import Carried
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

ROOM = 0.92  # of the memory, less what activations and graphs take: as trainer/arithmetic counts it
WORKING_BYTES = 2e9
MOST_ROWS = 256
OUTS = "2048,4096,8192,16384,32768,65536"


def drawn(config: ModelConfig, device: str = "cuda") -> Bamba:
    """In bfloat16 on the GPU, on a CPU in float32; its vectors in float32."""
    matrix = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device("meta"):
        model = Bamba(config)
    model.to_empty(device=device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1 and parameter.shape[1] > 4:
            parameter.data = parameter.data.to(matrix).normal_(std=0.02)
        else:
            parameter.data.fill_(0.5)
    return model


def bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    for _ in range(2):
        target.copy_(source)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(5):
        target.copy_(source)
    torch.cuda.synchronize()
    return 10 * source.nbytes / (time.perf_counter() - begin)


def tokens_per_second(model: Bamba, rows: int, prompt: int, new: int) -> float:
    given = torch.randint(0, model.config.vocab_size, (rows, prompt)).tolist()
    seconds = []
    begin = time.perf_counter()
    for _ in written(model, given, new, lambda logits: logits.argmax(-1).tolist()):
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    steps = sorted(seconds[4:])
    return rows / steps[len(steps) // 2]


def filled(model: Bamba, rows: int, context: int, capacity: int) -> Memory:
    """What rows of so many tokens leave behind, made up."""
    config, made = model.config, memory.empty(model, rows, capacity)
    device = made.used.device
    for kept in (*made.keys.values(), *made.values.values()):
        kept.normal_()
    made.documents[:, :context] = OWN
    made.used.fill_(context)
    state = (rows, config.mamba_heads, config.mamba_head_dim, config.mamba_state)
    for layer in made.carried:
        halo = torch.zeros(rows, 3, config.conv_channels, dtype=model.head.weight.dtype, device=device)
        documents = torch.full((rows, 3), OWN, dtype=torch.int32, device=device)
        made.carried[layer] = Carried(torch.zeros(state, device=device), halo, documents)
    return made


def step_seconds(model: Bamba, rows: int, context: int, capacity: int, steps: int) -> float:
    """The median of so many steps after the fourth."""
    known = filled(model, rows, context, capacity)
    step = Step(model, known, known.used.expand(rows).clone())
    tokens = torch.zeros(rows, dtype=torch.int64, device=known.used.device)
    seconds = []
    for _ in range(steps + 4):
        begin = time.perf_counter()
        tokens = step(tokens).argmax(-1)
        if tokens.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds[4:])[steps // 2]


def rows_in(model: Bamba, tokens: int, memory_bytes: float) -> int:
    """How many texts of so many tokens memory has room for beside the weights."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    room = ROOM * memory_bytes - WORKING_BYTES - weights
    return max(0, min(MOST_ROWS, int(room // memory.bytes_of(model, 1, tokens))))


def curve(config: ModelConfig, options: argparse.Namespace) -> list[dict[str, Any]]:
    on_gpu = options.device == "cuda"
    total = torch.cuda.get_device_properties(0).total_memory if on_gpu else options.memory_gb * 1e9
    if options.memory_gb:
        total = min(total, options.memory_gb * 1e9)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    lines: list[dict[str, Any]] = [{"device": name, "memory_bytes": total, "torch": torch.__version__}]
    lines[0] |= {"recipe": options.recipe, "layers": config.layers, "date": time.strftime("%Y-%m-%d")}
    for kind, change in (("hybrid", {}), ("attention only", {"attention_layers": "all"})):
        model = drawn(config.model_copy(update=change), options.device)
        for out in map(int, options.outs.split(",")):
            whole, context = options.in_tokens + out, options.in_tokens + out // 2
            rows = rows_in(model, whole, total)
            speed = rows / step_seconds(model, rows, context, whole, options.new) if rows else 0.0
            line = {"model": kind, "in_tokens": options.in_tokens, "out_tokens": out, "batch": rows}
            lines.append({**line, "tokens_per_second": round(speed, 2)})
            print(f"{kind:15} {options.in_tokens:>6} + {out:>6}  {rows:>4} rows  {speed:9.1f} tokens/s", flush=True)
            if on_gpu:
                torch.cuda.empty_cache()
        del model
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="bamba-9b-phase1")
    parser.add_argument("--batches", default="1x1024,64x1024")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--in", type=int, default=1024, dest="in_tokens")
    parser.add_argument("--outs", default=OUTS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--memory-gb", type=float, default=0.0)
    options = parser.parse_args()
    if options.device == "cpu" and not (options.curve and options.memory_gb):
        parser.error("--device cpu is of --curve with --memory-gb: see benchmarks.decode_cpu for the rest")
    config = load_recipe(options.recipe).model
    if options.layers:
        kept = [layer for layer in config.attention_indices if layer < options.layers]
        config = config.model_copy(update={"layers": options.layers, "attention_layers": kept})
    if options.curve:
        lines = curve(config, options)
        if options.out:
            options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return
    speed = bandwidth()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, f"copy {speed / 1e12:.2f} TB/s")
    for name, change in (("hybrid", {}), ("attention only", {"attention_layers": "all"})):
        model = drawn(config.model_copy(update=change))
        weights = sum(p.nbytes for n, p in model.named_parameters() if n != "embedding.weight")
        for text in options.batches.split(","):
            rows, prompt = map(int, text.split("x"))
            try:
                found = tokens_per_second(model, rows, prompt, options.new)
            except torch.OutOfMemoryError:
                print(f"{name:15} {text:>9}  out of memory")
                torch.cuda.empty_cache()
                continue
            kept = memory.bytes_of(model, rows, prompt + options.new)
            attends = len(model.config.attention_indices)
            state = rows * (model.config.layers - attends) * model.config.inner_size * model.config.mamba_state * 4
            floor = rows * speed / (weights + kept + state)  # a state is read and written
            print(f"{name:15} {text:>9}  {found:9.0f} tokens/s, {found / floor:.2f} of the floor", flush=True)
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
