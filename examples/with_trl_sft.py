"""Fine-tune an exported model under TRL, and take what came of it back as a run.

    python examples/with_trl_sft.py hf-model chat.jsonl hf-sft     # needs trl and datasets

`hf-model` is what examples/export_to_transformers.py wrote, `chat.jsonl` has lines of {"messages": [{"role":
"user", "content": …}, {"role": "assistant", "content": …}]}. Do not turn `packing` on: where mamba_ssm is not installed
transformers refuses the rows that TRL packs, and what gives it positions alone lets documents leak into each other.
`bamba-data model train --recipe sft` packs, with the same loss (docs/finetuning.md).

Prints the loss of the first and the last step, and the run that was imported.
"""

import subprocess
import sys
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

# What is to be learned stands between the two words: the assistant's answer, and the end of its turn.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(model: str = "hf-model", data: str = "chat.jsonl", out: str = "hf-sft", steps: str = "10") -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = tokenizer.chat_template or CHAT
    args = SFTConfig(
        output_dir=f"{out}-work",
        max_steps=int(steps),
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        assistant_only_loss=True,
        packing=False,
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    learner: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = load_dataset("json", data_files=data, split="train")
    trainer = SFTTrainer(model=learner, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    print(f"loss {losses[0]:.3f} in step 1, {losses[-1]:.3f} in step {len(losses)}")
    trainer.save_model(out)
    subprocess.run([sys.executable, "-m", "trainer.import_hf", out, f"{out}-run"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
