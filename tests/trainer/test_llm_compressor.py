"""Codes and scales of `--quantize fp8` are llm-compressor's, bit for bit; transformers computes with them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.peers import COMPRESSED_TENSORS, environment, run
from tests.trainer.proportions import sharp_model
from tests.trainer.small import packed, saved
from trainer.hf.export import export
from trainer.hf.form import BAMBA, GRANITE, FolderForm

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

COMPRESSED = """
import sys
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"]))
model.save_pretrained(sys.argv[2], save_compressed=True)
"""

LOGITS = """
import sys, torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2])).logits.float(), sys.argv[3])
"""


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
def test_codes_and_scales_are_those_of_llm_compressor_to_the_bit(tmp_path: Path, form: FolderForm) -> None:
    python = environment("llm-compressor", ["llmcompressor==0.14.0.1", "torch==2.13.0"], ours_below=False)
    ours = sharp_model()
    with torch.no_grad():
        ours.get_parameter("blocks.0.mlp.down.weight")[3] = 0  # a row without a largest number
        ours.get_parameter("blocks.0.mlp.down.weight")[4] *= 1e-30
    first = saved(tmp_path / "run", ours)
    export(first, tmp_path / "plain", torch.bfloat16, None, form)
    export(first, tmp_path / "fp8", torch.bfloat16, None, form, fp8=True)
    run(python, COMPRESSED, tmp_path / "plain", tmp_path / "theirs", timeout_seconds=900)
    mine = load_file(next((tmp_path / "fp8").glob("*.safetensors")))
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    assert mine.keys() == theirs.keys()
    coded = [name for name, tensor in theirs.items() if tensor.dtype == torch.float8_e4m3fn]
    assert len(coded) == (24 if form is BAMBA else 20)
    for name in coded:
        assert torch.equal(mine[name].view(torch.uint8), theirs[name].view(torch.uint8)), name
        assert torch.equal(mine[f"{name}_scale"], theirs[f"{name}_scale"]), name
        assert mine[f"{name}_scale"].dtype == theirs[f"{name}_scale"].dtype


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
def test_transformers_computes_nearly_the_same_with_fp8(tmp_path: Path, form: FolderForm) -> None:
    python = environment("compressed-tensors", COMPRESSED_TENSORS)
    ours = sharp_model()
    export(saved(tmp_path / "run", ours), tmp_path / "fp8", torch.bfloat16, None, form, fp8=True)
    ids, documents, positions, _ = packed([90])
    torch.save(ids, tmp_path / "ids")
    run(python, LOGITS, tmp_path / "fp8", tmp_path / "ids", tmp_path / "logits")
    with torch.no_grad():
        mine = ours.logits(ids, documents, positions).log_softmax(-1)
        otherwise = ours.logits(ids, documents, positions // 2).log_softmax(-1)
    theirs = torch.load(tmp_path / "logits").log_softmax(-1)
    divergence = torch.nn.functional.kl_div(theirs, mine, log_target=True, reduction="none").sum(-1).mean()
    wrong = torch.nn.functional.kl_div(otherwise, mine, log_target=True, reduction="none").sum(-1).mean()
    assert divergence < 0.25 * wrong
