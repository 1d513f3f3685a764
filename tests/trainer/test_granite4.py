"""A dense Granite 4 hybrid is imported as the same function: multipliers, tied head and all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

from bamba_data.errors import UserError
from tests.trainer.small import CONFIG, packed
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf.export import export
from trainer.hf.form import GRANITE, form_of
from trainer.hf.granite_config import config_json
from trainer.hf.importing import imported

pytestmark = pytest.mark.slow

#: granite-4.0-h-micro's own, on a small shape; heads of 16.
MICRO: dict[str, Any] = {
    **{"embedding_multiplier": 12, "logits_scaling": 8, "residual_multiplier": 0.22, "attention_multiplier": 0.5},
    **{"position_embedding_type": "nope", "tie_word_embeddings": True, "rope_parameters": None, "rope_scaling": None},
}
WITH_POSITIONS = {"position_embedding_type": "rope", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
PLAIN = config_json(CONFIG.model_copy(update={"rotary_fraction": 1.0}), 256, "float32", None, None)


@pytest.mark.parametrize(
    "fields",
    [MICRO, {**MICRO, **WITH_POSITIONS}, {**MICRO, "tie_word_embeddings": False}, {**MICRO, "mamba_n_groups": 4}],
)
def test_logits_are_those_of_transformers_and_an_export_keeps_them(tmp_path: Path, fields: dict[str, Any]) -> None:
    torch.manual_seed(3)
    stated = {**PLAIN, **fields}
    theirs = GraniteMoeHybridForCausalLM(GraniteMoeHybridConfig(**stated)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)  # so large that each multiplier counts
    theirs.save_pretrained(tmp_path / "hf")
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    ids, documents, positions, _ = packed([90])
    with torch.no_grad():
        ours = back.model(torch.device("cpu"), torch.float32).logits(ids, documents, positions)
        wanted = theirs(ids).logits
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    export(back, tmp_path / "again", torch.float32, None, GRANITE)
    again = GraniteMoeHybridForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    with torch.no_grad():
        assert (again(ids).logits - wanted).abs().max() < 1e-5 * wanted.abs().max()
    imported(tmp_path / "again", str(tmp_path / "once-more"))
    assert SavedCheckpoint(str(tmp_path / "once-more")).config == back.config


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_local_experts": 4}, "num_local_experts is 4, this model has 0"),
        ({"mamba_n_groups": 3}, "mamba_groups: 3 do not divide"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
        ({"residual_multiplier": 0}, "residual_multiplier is 0, no number above 0"),
        ({"logits_scaling": "8"}, "logits_scaling is '8', no number above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_folded_is_refused_by_the_field(fields: dict[str, Any], named: str) -> None:
    config = json.loads(json.dumps({**PLAIN, **MICRO, **fields}))
    with pytest.raises(UserError, match=named):
        form_of(config, "config.json").config_of(config, "config.json")
