"""How fast texts are written on, on a CPU: ours beside transformers' cached generate and llama.cpp, in one run.

    python -m benchmarks.decode_cpu [--hidden 512] [--layers 12] [--prompts 1x512,8x512] [--new 48] [--rounds 3]
        [--threads 1] [--out FILE]

One model with weights drawn, float32 for all: ours as a checkpoint, transformers by our export of it, llama.cpp by our
GGUF (--gguf f32,q8_0). Each gets the same prompts and takes the likeliest token. What is compared is processor time, of
all threads and the kernel's part too: on a machine with other work the clock on the wall says little. A step is the
median of a round; rounds go in turns, and a ratio is of one round. Tokens that differ from ours are counted: with drawn
weights two logits can be equal to rounding, and q8_0 rounds the weights.

llama.cpp is node-llama-cpp's build (tests/llama_cpp.py), so a step of it holds a call through node.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bamba_data.storage.store import LocalStore
from benchmarks.measure import machine
from tests.llama_cpp import VERSION, modules
from tests.trainer.vocabularies import a_tokenizer
from trainer.checkpoint.commits import folder_name
from trainer.checkpoint.reader import SavedCheckpoint, write
from trainer.decode.sampling import likeliest
from trainer.decode.writing import written
from trainer.gguf.export import export_gguf
from trainer.hf.export import export
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig
from trainer.model.init_weights import init_weights

SCRIPT = Path(__file__).parent / "peers" / "decode_llama_cpp.mjs"
WARM_STEPS = 4
#: [wall, processor] seconds of each step after the first token, and the tokens of each row.
Steps = list[tuple[float, float]]
Run = tuple[Steps, list[list[int]]]


def model_of(hidden: int, layers: int, vocab: int) -> Bamba:
    """A hybrid in Bamba's proportions: one layer of six attends."""
    config = ModelConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        mlp_size=hidden * 3,
        layers=layers,
        attention_layers=list(range(3, layers, 6)),
        attention_heads=hidden // 64,
        kv_heads=max(1, hidden // 256),
        mamba_heads=hidden // 32,
        mamba_head_dim=64,
    )
    made = Bamba(config)
    init_weights(made, config, 7)
    return made.requires_grad_(False)


def between(clocks: list[tuple[float, float]]) -> Steps:
    return [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in itertools.pairwise(clocks)]


def ours(model: Bamba, prompts: list[list[int]], new: int) -> Run:
    clocks, rows = [], []
    for tokens in written(model, prompts, new, likeliest):
        clocks.append((time.perf_counter(), time.process_time()))
        rows.append(tokens)
    return between(clocks), [list(row) for row in zip(*rows, strict=True)]


def of_transformers(model: Any, prompts: list[list[int]], new: int) -> Run:
    clocks: list[tuple[float, float]] = []

    def stop(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        clocks.append((time.perf_counter(), time.process_time()))
        return torch.zeros(len(ids), dtype=torch.bool)

    ids = torch.tensor(prompts)
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            stopping_criteria=[stop],
            pad_token_id=0,
        )
    return between(clocks), found[:, ids.shape[1] :].tolist()


def of_llama_cpp(gguf: Path, prompts: list[list[int]], new: int, threads: int) -> Run:
    job, answer = gguf.with_suffix(".job.json"), gguf.with_suffix(".answer.json")
    job.write_text(json.dumps({"model": str(gguf), "prompts": prompts, "newTokens": new, "threads": threads}))
    subprocess.run(["node", str(SCRIPT), str(modules()), str(job), str(answer)], check=True, timeout=900)
    said = json.loads(answer.read_text())
    return said["steps"], said["tokens"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--prompts", default="1x512,8x512")
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gguf", default="f32,q8_0")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import transformers
    from transformers import BambaForCausalLM

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    tokenizer = a_tokenizer("llama-bpe")
    model = model_of(options.hidden, options.layers, 32_000)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "node-llama-cpp": VERSION}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store, name = LocalStore(folder / "run" / "checkpoints"), folder_name(1, "0")
        about = {"step": 1, "recipe": {"model": model.config.model_dump(mode="json"), "data": {"row_tokens": 4096}}}
        write(store, name, ((f"model.{key}", value.detach()) for key, value in model.named_parameters()), about)
        saved = SavedCheckpoint(str(folder / "run"))
        export(saved, folder / "hf", torch.float32, tokenizer)
        theirs = BambaForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
        theirs.generation_config.eos_token_id = None
        tools: dict[str, Callable[[list[list[int]], int], Run]] = {
            "ours": lambda prompts, new: ours(model, prompts, new),
            "transformers": lambda prompts, new: of_transformers(theirs, prompts, new),
        }
        for kind in options.gguf.split(","):
            file = folder / f"{kind}.gguf"
            export_gguf(saved, file, kind, tokenizer, 4096)
            tools[f"llama.cpp {kind}"] = lambda prompts, new, file=file: of_llama_cpp(
                file, prompts, new, options.threads
            )
        parameters = sum(value.numel() for value in model.parameters())
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **machine(), **versions}
        about |= {"parameters": parameters, "threads": options.threads, "new_tokens": options.new}
        print(json.dumps(about), flush=True)
        found = []
        for shape in options.prompts.split(","):
            found += _measured(tools, shape, options.new, options.rounds)
    if options.out:
        options.out.write_text("".join(json.dumps(line) + "\n" for line in [about, *found]))


def _measured(
    tools: dict[str, Callable[[list[list[int]], int], Run]], shape: str, new: int, rounds: int
) -> list[dict[str, Any]]:
    rows, length = map(int, shape.split("x"))
    drawn = torch.randint(0, 400, (rows, length), generator=torch.Generator().manual_seed(1))
    prompts: list[list[int]] = drawn.tolist()
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in tools}
    tokens: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for name, run in tools.items():
            steps, tokens[name] = run(prompts, new)
            wall, processor = (median(each) for each in zip(*steps[WARM_STEPS:], strict=True))
            speeds[name].append((rows / wall, rows / processor))
    lines = []
    for name, each in speeds.items():
        ratios = [speed / own for (_, speed), (_, own) in zip(each, speeds["ours"], strict=True)]
        pairs = zip(itertools.chain(*tokens[name]), itertools.chain(*tokens["ours"]), strict=True)
        line = {
            "prompts": shape,
            "tool": name,
            "tokens_per_processor_second": [round(speed, 2) for _, speed in each],
            "tokens_per_second": [round(speed, 2) for speed, _ in each],
            "of_ours": [round(ratio, 3) for ratio in ratios],
            "tokens_equal": sum(one == other for one, other in pairs),
            "tokens": rows * new,
        }
        lines.append(line)
        print(
            f"{shape:>8}  {name:16} {median(speed for _, speed in each):8.1f} tokens a processor second, "
            f"{median(ratios):.2f} of ours ({min(ratios):.2f}-{max(ratios):.2f}), {line['tokens_equal']} of "
            f"{rows * new} tokens equal",
            flush=True,
        )
    return lines


if __name__ == "__main__":
    main()
