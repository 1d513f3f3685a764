"""Export a trained run to Hugging Face, and let transformers write with it.

    python examples/export_to_transformers.py training-run hf-model

`training-run` is what examples/train_kill_resume.py made, or any run of the trainer. The folder has the weights as
safetensors, the config, the tokenizer out of the dataset that was learned, and a model card that names checkpoint, data
and recipe. It opens as `BambaForCausalLM`; `python -m trainer.import_hf hf-model NEW-RUN` is the way back.

Prints what the export wrote, and a text that the model goes on with.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer


def main(run: str = "training-run", out: str = "hf-model") -> None:
    subprocess.run([sys.executable, "-m", "trainer.export_hf", run, out, "--dtype", "float32"], check=True)
    for file in sorted(Path(out).iterdir()):
        print(f"  {file.name:35} {file.stat().st_size:12,} bytes")

    tokenizer = AutoTokenizer.from_pretrained(out)
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    print(f"{type(model).__name__} of {model.num_parameters():,} parameters")
    prompt = tokenizer("Call me Ishmael. Some years ago", return_tensors="pt")
    written = model.generate(prompt["input_ids"], max_new_tokens=12, do_sample=False)
    print(repr(tokenizer.decode(written[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
