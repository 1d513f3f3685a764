"""`--quantize fp8`: codes and scales by the rule, in the layout that servers open, in the bytes that it promises."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bamba_data.errors import UserError
from tests.bamba_data.memory import grown
from tests.trainer.proportions import CONFIG, sharp_model
from tests.trainer.small import CONFIG as SMALL
from tests.trainer.small import saved
from trainer.config import load_recipe
from trainer.hf.export import export
from trainer.hf.form import BAMBA, GRANITE, FolderForm
from trainer.hf.fp8 import quantized
from trainer.hf.importing import imported
from trainer.hf.layouts import ExportOptions, layout_for
from trainer.hf.storage import Storage, sizes
from trainer.model.bamba import Bamba

pytestmark = pytest.mark.slow

F32 = Storage(torch.float32)


def test_each_row_is_scaled_to_the_largest_code_and_each_code_is_the_nearest() -> None:
    torch.manual_seed(3)
    weight = (torch.randn(64, 256) * torch.logspace(-6, 3, 64)[:, None]).bfloat16()
    codes, scales = quantized(weight.float())
    assert codes.dtype == torch.float8_e4m3fn and scales.dtype == torch.bfloat16 and scales.shape == (64, 1)
    assert (codes.float().abs().amax(dim=1) == 448).all()
    back, exact = codes.double() * scales.double(), weight.double()
    # half a step of three bits of mantissa, one of bfloat16 in the quotient; below 2^-6 the steps are 2^-9 wide
    allowed = torch.maximum(exact.abs() * (2**-4 + 2**-8), scales.double() * 2**-10 * 1.01)
    assert ((back - exact).abs() <= allowed).all()


def test_a_row_of_zeros_stays_zero() -> None:
    codes, scales = quantized(torch.zeros(2, 16))
    assert (codes.float() == 0).all() and (scales > 0).all()


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
def test_the_linears_alone_are_codes_and_the_scan_keeps_float32(tmp_path: Path, form: FolderForm) -> None:
    run = saved(tmp_path / "run", sharp_model())
    export(run, tmp_path / "plain", torch.bfloat16, None, form)
    export(run, tmp_path / "fp8", torch.bfloat16, None, form, fp8=True)
    (plain_file,), (fp8_file,) = (sorted((tmp_path / name).glob("*.safetensors")) for name in ("plain", "fp8"))
    plain, fp8 = load_file(plain_file), load_file(fp8_file)
    linears = {name for name in plain if name.endswith(("_proj.weight", "_linear.weight"))}
    assert fp8.keys() == plain.keys() | {f"{name}_scale" for name in linears}
    for name, tensor in plain.items():
        if name in linears:
            codes, scales = quantized(tensor)
            assert torch.equal(fp8[name].view(torch.uint8), codes.view(torch.uint8))
            assert torch.equal(fp8[f"{name}_scale"], scales)
        else:
            assert torch.equal(fp8[name], tensor)
            assert tensor.dtype == (torch.float32 if name.endswith((".A_log", ".D", ".dt_bias")) else torch.bfloat16)
    index = json.loads((tmp_path / "fp8" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == fp8.keys()
    promised = sum(size for _, size in sizes(CONFIG, form, Storage(fp8=True)))
    assert index["metadata"]["total_size"] == promised == sum(tensor.nbytes for tensor in fp8.values())
    assert "FP8" in (tmp_path / "fp8" / "README.md").read_text()


@pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])
def test_9b_parameters_of_39_gb_take_10_point_8(form: FolderForm) -> None:
    config = load_recipe("bamba-9b-phase1").model
    whole, half, fp8 = (
        sum(size for _, size in sizes(config, form, storage)) for storage in (F32, Storage(), Storage(fp8=True))
    )
    linears = [(piece.end - piece.start, size // 4) for piece, size in sizes(config, form, F32) if piece.linear]
    codes, scales = sum(count for _, count in linears), 2 * sum(rows for rows, _ in linears)
    assert whole == 4 * config.parameters and round(whole / 1e9, 2) == 39.12
    assert (round(half / 1e9, 2), round(codes / 1e9, 4)) == (19.56, 8.7278)
    assert round((fp8 - scales) / 1e9, 2) == 10.83 and scales < 4e6


def test_what_is_quantized_is_not_float32_and_the_choice_names_its_values(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", sharp_model())
    for options, refused in (
        (ExportOptions("float32", "fp8"), "--quantize fp8 and --dtype float32 are two things"),
        (ExportOptions(None, "int4"), "--quantize int4: fp8"),
    ):
        with pytest.raises(UserError, match=refused):
            layout_for("granite", options).write(run, tmp_path / "out", options, None)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_codes_are_no_weights_to_import(tmp_path: Path) -> None:
    export(saved(tmp_path / "run", sharp_model()), tmp_path / "fp8", torch.bfloat16, None, fp8=True)
    with pytest.raises(UserError, match="quantization_config: its weights are codes: take the folder they were made"):
        imported(tmp_path / "fp8", str(tmp_path / "back"))


@pytest.mark.costly
def test_an_export_to_fp8_holds_one_shard_in_memory(tmp_path: Path) -> None:
    shape = {"hidden_size": 512, "mlp_size": 2048, "mamba_heads": 16, "mamba_head_dim": 64, "layers": 12}
    large = Bamba(SMALL.model_copy(update=shape))
    count = sum(value.numel() for value in large.parameters())
    saved(tmp_path / "run", large)
    script = """
import torch
from trainer.hf import export as export_hf
from trainer.checkpoint.reader import SavedCheckpoint
export_hf.SHARD_BYTES = 4 << 20
saved = SavedCheckpoint(sys.argv[1])
before = peak()
export_hf.export(saved, Path(sys.argv[2]), torch.bfloat16, None, fp8=True)
done(None, before)
"""
    _, grew = grown(script, tmp_path / "run", tmp_path / "hf")
    largest = 4 * 512 * 4096
    assert grew < (4 << 20) + 8 * largest < 2 * count
