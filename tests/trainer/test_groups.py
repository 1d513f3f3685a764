"""Groups of Mamba2 heads, each with its own B and C and its own norm, compute what they do in other libraries."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from bamba_data.errors import UserError
from tests.trainer.small import CONFIG, model, packed, saved
from trainer.arithmetic.model_parts import ModelCost
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.config import load_recipe
from trainer.distributed.consistency import describe_shape_changes
from trainer.hf.export import export
from trainer.hf.form import BAMBA, GRANITE, FolderForm
from trainer.hf.importing import imported
from trainer.model.config import ModelConfig

FORMS = pytest.mark.parametrize("form", [BAMBA, GRANITE], ids=["bamba", "granite"])


def of(groups: int, norm_groups: int | None = None) -> ModelConfig:
    fields = {"mamba_groups": groups, "mamba_norm_groups": norm_groups or groups}
    return ModelConfig.model_validate({**CONFIG.model_dump(), **fields})


@pytest.mark.slow
@FORMS
@pytest.mark.parametrize("groups", [2, 4])
def test_logits_are_those_of_transformers_and_the_folder_comes_back_to_the_bit(
    tmp_path: Path, form: FolderForm, groups: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = model(config=of(groups))
    run = saved(tmp_path / "run", ours)
    export(run, tmp_path / "hf", torch.float32, None, form)
    assert "transformers 4 would compute another norm" in capsys.readouterr().err
    assert "4.57" not in (tmp_path / "hf" / "README.md").read_text()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids, documents, positions, _ = packed([130])
    with torch.no_grad():
        mine, wanted = ours.logits(ids, documents, positions), theirs(ids).logits
        for block in ours.blocks:
            block.mixer.norm_groups = 1  # type: ignore[union-attr]
        otherwise = ours.logits(ids, documents, positions)
    assert (mine - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (mine - otherwise).abs().max() > 1e-3 * wanted.abs().max(), "another norm would not show"
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    assert back.config == ours.config
    for name in run.index:
        assert torch.equal(back.tensor(name), run.tensor(name)), name


@pytest.mark.slow
def test_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    ours = model(config=of(4))
    export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids, documents, positions, labels = packed([90])
    ours.losses(ids, documents, positions, labels)[0].backward()
    logits = theirs(ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    parameters, found = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for piece in BAMBA.tensors(ours.config):
        mine, other = parameters[piece.ours].grad, found[piece.theirs].grad
        assert mine is not None and other is not None
        torch.testing.assert_close(piece.out_of(mine), other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_each_group_has_its_parameters_and_they_are_counted(groups: int) -> None:
    config = of(groups)
    held = model(config=config)
    assert config.parameters == sum(one.numel() for one in held.parameters()) == ModelCost(config).parameters
    channels = 8 * 16 + 2 * groups * 16
    assert held.get_submodule("blocks.0.mixer").get_parameter("conv_weight").shape == (channels, 4)


@pytest.mark.parametrize(
    ("groups", "norm_groups", "named"),
    [
        (3, 1, "mamba_groups: 3 do not divide mamba_heads 8"),
        (1, 3, r"mamba_norm_groups: 3 do not divide mamba_heads \* mamba_head_dim 128"),
        (0, 1, "greater than or equal to 1"),
    ],
)
def test_groups_that_do_not_divide_are_refused(groups: int, norm_groups: int, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        of(groups, norm_groups)


@FORMS
def test_a_norm_of_other_groups_is_refused_by_each_layout(tmp_path: Path, form: FolderForm) -> None:
    run = saved(tmp_path / "run", model(config=of(4, 1)))
    named = "mamba_groups is 4, mamba_norm_groups 1: no layout can say it"
    with pytest.raises(UserError, match=named):
        export(run, tmp_path / "hf", torch.float32, None, form)
    assert run.model(torch.device("cpu"), torch.float32).config == run.config, "it is a checkpoint like any other"


@FORMS
def test_a_folder_whose_groups_do_not_divide_its_heads_is_refused(tmp_path: Path, form: FolderForm) -> None:
    stated = form.config_json(CONFIG, 256, "float32", None, None)
    for groups, named in ((3, "mamba_groups: 3 do not divide"), (0, "mamba_groups"), (None, "mamba_groups")):
        with pytest.raises(UserError, match=named):
            form.config_of(json.loads(json.dumps({**stated, "mamba_n_groups": groups})), "config.json")


def test_a_model_of_one_group_says_nothing_of_it_so_recipes_of_before_keep_their_digest() -> None:
    assert not {"mamba_groups", "mamba_norm_groups"} & CONFIG.model_dump().keys()
    assert ModelConfig.model_validate(of(4).model_dump(mode="json")) == of(4)


def test_other_groups_are_other_tensors_and_a_run_does_not_go_on_with_them() -> None:
    plain = load_recipe("tiny-cpu")
    grouped = load_recipe("tiny-cpu", ["model.mamba_groups=2"])
    assert describe_shape_changes(plain, grouped) == ["model.mamba_groups was None, is 2"]
    normed = load_recipe("tiny-cpu", ["model.mamba_norm_groups=2"])
    assert describe_shape_changes(plain, normed) == [] and normed.learned_digest() != plain.learned_digest()
