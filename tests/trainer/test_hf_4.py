"""Exports open in transformers 4 as well, which reads other fields of the config, and its own saves come back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.peers import environment, run
from tests.trainer.small import CONFIG, model, packed, saved
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf import export
from trainer.hf.form import BAMBA, GRANITE, FolderForm
from trainer.hf.importing import imported
from trainer.hf.rotary_fields import base_of
from trainer.model.config import ModelConfig
from trainer.model.rotary import frequencies

pytestmark = pytest.mark.peers

#: For texts that are longer than 32 tokens; the test has 90.
SCALED: list[dict[str, Any]] = [
    {"rotary_scale": {"kind": "linear", "factor": 4.0}},
    {"rotary_scale": {"kind": "ntk", "factor": 4.0}},
    {"rotary_scale": {"kind": "yarn", "factor": 4.0, "original_tokens": 32}},
    {
        "rotary_factors": [1.0, 1.5, 2.0, 4.0],
        "rotary_scale": {"kind": "longrope", "factor": 4.0, "original_tokens": 32},
    },
]

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
    config = ModelConfig(**{**CONFIG.model_dump(), "rotary_base": base, "rotary_fraction": fraction})
    assert both_ways(tmp_path, config, form) == config


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
@pytest.mark.parametrize("scaled", SCALED, ids=str)
def test_transformers_4_computes_what_we_do_at_longer_texts(
    tmp_path: Path, scaled: dict[str, Any], form: FolderForm
) -> None:
    config = ModelConfig.model_validate({**CONFIG.model_dump(), **scaled})
    # queries' rows that were divided by the attention factor's square are rounded: less sharp, so that it does not show
    back = both_ways(tmp_path, config, form, sharper=8)
    torch.testing.assert_close(frequencies(back), frequencies(config), rtol=3e-7, atol=0)


def both_ways(tmp_path: Path, config: ModelConfig, form: FolderForm, sharper: float = 40) -> ModelConfig:
    """The config of what transformers 4 saved of our export, after its logits were found to be ours."""
    python = environment("transformers-4", ["transformers==4.57.6"])
    ours = model(config=config)
    with torch.no_grad():
        ours.get_submodule("blocks.1.mixer").get_parameter("qkv.weight").mul_(sharper)
    export.export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None, form)
    ids, documents, positions, _ = packed([90])
    torch.save(ids, tmp_path / "ids")
    run(python, LOGITS, tmp_path / "hf", tmp_path / "ids", base_of(config))
    wanted = torch.load(tmp_path / "ids.logits")
    with torch.no_grad():
        mine = ours.logits(ids, documents, positions)
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max()
    written = json.loads((tmp_path / "hf-4" / "config.json").read_text())
    assert written["rope_theta"] == base_of(config)
    imported(tmp_path / "hf-4", str(tmp_path / "back"))
    return SavedCheckpoint(str(tmp_path / "back")).config
