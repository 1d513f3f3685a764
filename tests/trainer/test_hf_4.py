"""Exports open in transformers 4 as well, which reads other fields of the config, and its own saves come back."""

import json
from pathlib import Path

import pytest
import torch

from tests.peers import environment, run
from tests.trainer.small import CONFIG, model, packed, saved
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf import export
from trainer.hf.form import BAMBA, GRANITE, FolderForm
from trainer.hf.importing import imported
from trainer.model.config import ModelConfig

pytestmark = pytest.mark.peers

LOGITS = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM
assert transformers.__version__.startswith("4."), transformers.__version__
theirs = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
assert theirs.config.rope_theta == float(sys.argv[3]), theirs.config.rope_theta
with torch.no_grad():
    logits = theirs(torch.load(sys.argv[2])).logits
torch.save(logits, sys.argv[2] + ".logits")
theirs.save_pretrained(sys.argv[1] + "-4")
"""


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
@pytest.mark.parametrize(("base", "fraction"), [(1e4, 0.5), (5e5, 0.5), (5e5, 1.0), (1e4, 0.25)])
def test_transformers_4_computes_what_we_do_and_its_folder_is_read_back(
    tmp_path: Path, base: float, fraction: float, form: FolderForm
) -> None:
    python = environment("transformers-4", ["transformers==4.57.6"])
    config = ModelConfig(**{**CONFIG.model_dump(), "rotary_base": base, "rotary_fraction": fraction})
    ours = model(config=config)
    with torch.no_grad():
        ours.get_submodule("blocks.1.mixer").get_parameter("qkv.weight").mul_(40)
    export.export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None, form)
    ids, documents, positions, _ = packed([90])
    torch.save(ids, tmp_path / "ids")
    run(python, LOGITS, tmp_path / "hf", tmp_path / "ids", base)
    wanted = torch.load(tmp_path / "ids.logits")
    with torch.no_grad():
        mine = ours.logits(ids, documents, positions)
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max()
    written = json.loads((tmp_path / "hf-4" / "config.json").read_text())
    assert written["rope_theta"] == base
    imported(tmp_path / "hf-4", str(tmp_path / "back"))
    assert SavedCheckpoint(str(tmp_path / "back")).config == config
