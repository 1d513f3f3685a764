"""What FP8 costs: the held-out loss of a model that was trained here, quantized, is at most 1 % higher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bamba.loader import Reading, build_loader
from bamba.loader.order.plan import loads
from bamba_data.canonical_json import dumps
from bamba_data.tokenization.conformance import Certificate
from tests.loader.real import documents, publish
from tests.peers import COMPRESSED_TENSORS, environment, run
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf.export import export
from trainer.hf.form import BAMBA, GRANITE, FolderForm

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

#: The 9B's heads and state, two layers of each kind; it learns for some minutes.
SHAPE = {
    "hidden_size": 128,
    "mlp_size": 448,
    "layers": 4,
    "attention_layers": [1, 3],
    "attention_heads": 2,
    "kv_heads": 1,
    "mamba_heads": 4,
    "mamba_head_dim": 64,
    "mamba_state": 128,
}
STEPS = 40
ROWS = 32

LOSS = """
import json, sys, torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
rows = torch.load(sys.argv[2])
losses = []
with torch.no_grad():
    for ids, labels in zip(rows["input_ids"].split(4), rows["labels"].split(4)):
        logits = model(ids).logits.float()
        losses.append(cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")[labels.flatten() >= 0])
print("LOSS", torch.cat(losses).mean().item(), len(torch.cat(losses)))
"""


@pytest.fixture(scope="module")
def prose(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 90,000 tokens of real prose, of which twelve documents are held out."""
    texts = documents(300, 2400, heldout=12, prefix="p")
    return publish(tmp_path_factory.mktemp("prose"), certificate, {"prose": texts})


@pytest.fixture(scope="module")
def trained(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fp8") / "run"
    changes = [f"model.{name}={json.dumps(value)}" for name, value in SHAPE.items()] + [f"schedule.steps={STEPS}"]
    sets = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "trainer", "--recipe", "tiny-cpu", "--data", str(prose), "--out", str(out), *sets]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # two threads of a small model wait for each other where others work
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2400, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def held_out(prose: Path, trained: Path) -> dict[str, torch.Tensor]:
    plan = loads(dumps(SavedCheckpoint(str(trained)).commit["feed"]["plan"]), "the plan")
    reading = Reading(rank=0, world_size=1, num_workers=0, pad_rows=True)
    batches = list(build_loader([str(prose)], reading=reading, plan=plan, split="holdout"))
    return {name: torch.cat([batch[name] for batch in batches])[:ROWS] for name in ("input_ids", "labels")}


def loss(folder: Path, rows: dict[str, torch.Tensor]) -> float:
    """In nats a token, by transformers, with activations quantized where the folder says so."""
    python = environment("compressed-tensors", COMPRESSED_TENSORS)
    torch.save(rows, folder.parent / "rows")
    said = run(python, LOSS, folder, folder.parent / "rows", timeout_seconds=900)
    return float(said.split("LOSS")[1].split()[0])


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
def test_the_held_out_loss_rises_by_at_most_a_percent(
    trained: Path, held_out: dict[str, torch.Tensor], tmp_path: Path, form: FolderForm
) -> None:
    saved = SavedCheckpoint(str(trained))
    export(saved, tmp_path / "plain", torch.float32, None, form)
    export(saved, tmp_path / "fp8", torch.bfloat16, None, form, fp8=True)
    plain, fp8 = loss(tmp_path / "plain", held_out), loss(tmp_path / "fp8", held_out)
    assert plain < 8.5, "it has learned too little for the comparison to say anything"  # chance is 10.8
    sys.stdout.write(f"held-out loss {plain:.4f}, with FP8 {fp8:.4f}\n")
    assert fp8 <= 1.01 * plain
