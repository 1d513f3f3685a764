"""Fine-tune by LoRA under TRL and peft, merge the adapter, and take the model back as a run.

    python examples/with_trl_lora.py hf-sft chat.jsonl hf-lora     # needs trl, peft and datasets

`hf-sft` is what examples/with_trl_sft.py wrote: a model with a chat template. Name the targets: `out_proj` must not be
among them, as it is with `all-linear`. On a GPU with mamba_ssm its weight goes into a kernel without a call of the
module, so that an adapter there would be left out and learn nothing. Only a merged model can be imported.

Prints what was trained, the losses, by how much out_proj changed (0), and the run that was imported.
"""

import subprocess
import sys
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

TARGETS = ["in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main(model: str = "hf-sft", data: str = "chat.jsonl", out: str = "hf-lora", steps: str = "10") -> None:
    args = SFTConfig(
        output_dir=f"{out}-work",
        max_steps=int(steps),
        learning_rate=5e-3,
        per_device_train_batch_size=4,
        assistant_only_loss=True,
        packing=False,
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    learner: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = {name: value.detach().clone() for name, value in learner.named_parameters() if "out_proj" in name}
    rows = load_dataset("json", data_files=data, split="train")
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    trainer: Any = SFTTrainer(learner, args, train_dataset=rows, processing_class=tokenizer, peft_config=adapter)
    trainer.train()
    trained = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    print(f"{trained:,} parameters trained")
    print(f"loss {losses[0]:.3f} in step 1, {losses[-1]:.3f} in step {len(losses)}")
    merged = trainer.model.merge_and_unload()
    after = dict(merged.named_parameters())
    changes = [(after[name].detach().cpu() - old).abs().max().item() for name, old in before.items()]
    print(f"out_proj changed by {max(changes):g}")
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    subprocess.run([sys.executable, "-m", "trainer.import_hf", out, f"{out}-run"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
