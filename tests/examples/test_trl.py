"""Our export under TRL and peft: tuned, by LoRA, by preferences, and back as a run; what leaks there is refused."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from tests.chats import MARKED, conversation, folder, write
from tests.examples.running import EXAMPLES, environment
from tests.peers import TRL
from tests.peers import environment as peer
from tests.peers import run as run_script
from tests.trainer.small import CONFIG, model, saved
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.checkpoint.tokenizer import of_file
from trainer.hf.export import export

pytestmark = pytest.mark.peers

SMALL = CONFIG.model_copy(update={"vocab_size": 50280, "layers": 2})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hf-model`, exported here; `hf-chat`, the same with a chat template; conversations and preferences."""
    at = tmp_path_factory.mktemp("trl")
    tokenizer = folder(at / "tokenizer", None) / "tokenizer.json"
    checkpoint = saved(at / "run", model(config=SMALL))
    for name in ("hf-model", "hf-chat"):
        export(checkpoint, at / name, torch.float32, of_file(tokenizer).with_tokens(None, "<|endoftext|>"))
    (at / "hf-chat" / "chat_template.jinja").write_text(MARKED)
    talks = [conversation(number, 1) for number in range(16)]
    write(at / "chat.jsonl", talks)
    preferences = (
        {"prompt": [question], "chosen": [answer], "rejected": [{"role": "assistant", "content": "I cannot say."}]}
        for *_, question, answer in talks
    )
    (at / "preferences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in preferences))
    return at


def example(name: str, place: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(peer("trl", TRL)), str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def losses(said: str) -> tuple[float, float]:
    found = re.search(r"loss ([\d.]+) in step 1, ([\d.]+) in step \d", said)
    assert found is not None, said
    first, last = found.groups()
    return float(first), float(last)


def weights(run: Path, name: str) -> torch.Tensor:
    return SavedCheckpoint(str(run)).tensor(f"model.{name}")


def test_an_export_is_tuned_and_comes_back_as_a_run(place: Path) -> None:
    said = example("with_trl_sft", place, "hf-model", "chat.jsonl", "hf-sft", "6")
    first, last = losses(said)
    assert last < first - 1
    assert SavedCheckpoint(str(place / "hf-sft-run")).config == SMALL
    name = "blocks.0.mlp.down.weight"
    assert not torch.equal(weights(place / "hf-sft-run", name), weights(place / "run", name))


def test_an_adapter_is_merged_and_comes_back_and_leaves_out_proj_alone(place: Path) -> None:
    said = example("with_trl_lora", place, "hf-chat", "chat.jsonl", "hf-lora", "6")
    first, last = losses(said)
    assert last < first
    assert "out_proj changed by 0\n" in said
    same, tuned = "blocks.0.mixer.out_proj.weight", "blocks.0.mixer.in_proj.weight"
    assert torch.equal(weights(place / "hf-lora-run", same), weights(place / "run", same))
    assert not torch.equal(weights(place / "hf-lora-run", tuned), weights(place / "run", tuned))


def test_preferences_are_learned_and_the_model_comes_back(place: Path) -> None:
    said = example("with_trl_dpo", place, "hf-chat", "preferences.jsonl", "hf-dpo", "4")
    first, last = losses(said)
    assert first == pytest.approx(0.693, abs=0.01) and last < first
    margin = re.search(r"margin of the chosen answers ([\d.-]+)", said)
    assert margin is not None and float(margin[1]) > 0
    assert SavedCheckpoint(str(place / "hf-dpo-run")).config == SMALL


PACKED = """
import sys, torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
model, data, out = sys.argv[1:]
args = SFTConfig(output_dir=out, max_steps=1, packing=True, max_length=64, bf16=False, report_to="none", use_cpu=True)
learner = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
rows = load_dataset("json", data_files=data, split="train")
trainer = SFTTrainer(learner, args, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(model))
try:
    trainer.train()
    print("trained")
except ValueError as error:
    print(error)
"""


def test_rows_that_trl_packs_are_refused_and_do_not_leak(place: Path) -> None:
    """If this fails, TRL and transformers pack a Bamba now: the examples and docs/finetuning.md can say so."""
    said = run_script(peer("trl", TRL), PACKED, place / "hf-chat", place / "chat.jsonl", place / "packed")
    assert "can't keep packed sequences apart without `mamba_ssm`" in said
