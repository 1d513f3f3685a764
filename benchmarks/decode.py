"""How fast texts are written on: the hybrid beside a transformer of the same widths, on one GPU, by the same code.

    python -m benchmarks.decode [--recipe bamba-9b-phase1] [--batches 1x1024,64x1024] [--new 64] [--layers N]

Weights are drawn. The tokens a second are of all rows, from the second replay of the step on; the floor beside them is
the bytes of weights, states, keys and values that a step reads and writes, over the bandwidth of a large copy.
"""

import argparse
import time

import torch

from trainer.config import load_recipe
from trainer.decode import memory
from trainer.decode.writing import written
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig


def drawn(config: ModelConfig) -> Bamba:
    """In bfloat16 on the GPU; its vectors in float32."""
    with torch.device("meta"):
        model = Bamba(config)
    model.to_empty(device="cuda")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1 and parameter.shape[1] > 4:
            parameter.data = parameter.data.to(torch.bfloat16).normal_(std=0.02)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="bamba-9b-phase1")
    parser.add_argument("--batches", default="1x1024,64x1024")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--layers", type=int)
    options = parser.parse_args()
    config = load_recipe(options.recipe).model
    if options.layers:
        kept = [layer for layer in config.attention_indices if layer < options.layers]
        config = config.model_copy(update={"layers": options.layers, "attention_layers": kept})
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
