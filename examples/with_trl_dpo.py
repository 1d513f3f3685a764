"""Tune a model by preferences under TRL (DPO, arXiv 2305.18290), and take it back as a run.

    python examples/with_trl_dpo.py hf-sft preferences.jsonl hf-dpo     # needs trl and datasets

`hf-sft` is what examples/with_trl_sft.py wrote: a model with a chat template. A line of `preferences.jsonl` has
{"prompt": [{"role": "user", …}], "chosen": [{"role": "assistant", …}], "rejected": [{"role": "assistant", …}]}. Leave
`padding_free` off, for the reason that is said of packing in examples/with_trl_sft.py.

Prints the loss of the first and the last step, how much more the chosen answers are preferred, and the run that was
imported.
"""

import subprocess
import sys
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main(model: str = "hf-sft", data: str = "preferences.jsonl", out: str = "hf-dpo", steps: str = "10") -> None:
    args = DPOConfig(
        output_dir=f"{out}-work",
        max_steps=int(steps),
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        beta=0.1,
        padding_free=False,
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    learner: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = load_dataset("json", data_files=data, split="train")
    trainer = DPOTrainer(model=learner, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    print(f"loss {lines[0]['loss']:.3f} in step 1, {lines[-1]['loss']:.3f} in step {len(lines)}")
    print(f"margin of the chosen answers {lines[-1]['rewards/margins']:.3f}")
    trainer.save_model(out)
    subprocess.run([sys.executable, "-m", "trainer.import_hf", out, f"{out}-run"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
