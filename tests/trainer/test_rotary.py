"""A rotary embedding for longer texts is the one of `transformers`, in both layouts, and comes back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import BambaForCausalLM, GraniteMoeHybridForCausalLM

from bamba_data.sources.base import Strict
from tests.trainer.proportions import CONFIG, sharp_model
from tests.trainer.small import packed, saved
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.config import load_recipe
from trainer.distributed.consistency import describe_shape_changes
from trainer.hf.bamba_config import config_json, config_of
from trainer.hf.export import export
from trainer.hf.form import BAMBA, GRANITE
from trainer.hf.importing import imported
from trainer.model.config import ModelConfig
from trainer.model.rotary import frequencies
from trainer.model.rotary_scale import RotaryScale

CLASSES: dict[str, Any] = {"bamba": (BAMBA, BambaForCausalLM), "granite": (GRANITE, GraniteMoeHybridForCausalLM)}

FACTORS = [1 + 0.11 * pair for pair in range(16)]
LONGROPE = {"kind": "longrope", "factor": 4.0, "original_tokens": 64}
YARN = {"kind": "yarn", "factor": 4.0, "original_tokens": 64}
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rotary_scale": {"kind": "linear", "factor": 4.0}},
    "ntk": {"rotary_scale": {"kind": "ntk", "factor": 4.0}},
    "yarn": {"rotary_scale": YARN},
    "yarn, all choices": {
        "rotary_scale": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}
    },
    "yarn of whole heads": {"rotary_fraction": 1.0, "rotary_scale": YARN},
    "longrope": {"rotary_factors": FACTORS, "rotary_scale": LONGROPE},
    "longrope of whole heads": {"rotary_fraction": 1.0, "rotary_factors": FACTORS + FACTORS, "rotary_scale": LONGROPE},
    "factors alone": {"rotary_factors": FACTORS},
}


def of(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({**CONFIG.model_dump(), **changes})


@pytest.mark.slow
@pytest.mark.parametrize("layout", CLASSES)
@pytest.mark.parametrize("name", SCALED)
def test_transformers_computes_what_we_do_below_and_above_the_original_length(
    tmp_path: Path, name: str, layout: str
) -> None:
    config, (form, opens) = of(**SCALED[name]), CLASSES[layout]
    ours, plain = sharp_model(config), sharp_model()
    export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None, form)
    theirs = opens.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back")).model(torch.device("cpu"), torch.float32)
    for tokens in (48, 250):
        ids, documents, positions, _ = packed([tokens])
        with torch.no_grad():
            mine, wanted = ours.logits(ids, documents, positions), theirs(ids).logits
            again = back.logits(ids, documents, positions)
            otherwise = plain.logits(ids, documents, positions)
        assert (mine - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert (mine - again).abs().max() < 1e-5 * wanted.abs().max()
        assert (mine - otherwise).abs().max() > 1e-3 * wanted.abs().max(), "so little changed that nothing is shown"
    if layout == "bamba":
        assert torch.equal(frequencies(config), theirs.model.rotary_emb.inv_freq)


@pytest.mark.slow
def test_the_layout_granite_keeps_every_bit_but_where_an_attention_factor_meets_a_part_of_a_head(
    tmp_path: Path,
) -> None:
    for name in ("yarn", "yarn of whole heads"):
        first = saved(tmp_path / name, sharp_model(of(**SCALED[name])))
        export(first, tmp_path / f"{name}-hf", torch.float32, None, GRANITE)
        imported(tmp_path / f"{name}-hf", str(tmp_path / f"{name}-back"))
        back = SavedCheckpoint(str(tmp_path / f"{name}-back"))
        differing = {
            key for key, entry in first.index.items() if entry["pieces"][0][-1] != back.index[key]["pieces"][0][-1]
        }
        rounded = {f"model.blocks.{layer}.mixer.qkv.weight" for layer in CONFIG.attention_indices}
        assert differing == (rounded if name == "yarn" else set())
        for key in differing:
            torch.testing.assert_close(back.tensor(key), first.tensor(key), rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    "ones",
    [
        {"rotary_factors": [1.0] * 16},
        {"rotary_factors": [1.0] * 16, "rotary_scale": {**LONGROPE, "factor": 1.0}},
        *({"rotary_scale": {"kind": kind, "factor": 1.0}} for kind in ("linear", "ntk")),
        {"rotary_scale": {**YARN, "factor": 1.0}},
    ],
    ids=str,
)
def test_factors_of_one_keep_every_bit(ones: dict[str, Any]) -> None:
    ids, documents, positions, _ = packed([60, 1, 39])
    with torch.no_grad():
        plain, same = (sharp_model(config).logits(ids, documents, positions) for config in (CONFIG, of(**ones)))
    assert torch.equal(plain, same)


@pytest.mark.parametrize("name", SCALED)
def test_what_an_export_says_is_read_back_as_it_was(name: str) -> None:
    config = of(**SCALED[name])
    back = config_of(json.loads(json.dumps(config_json(config, 256, "float32", 1, 2))), "config.json")
    if name == "ntk":  # is said by the base alone
        assert back.rotary_scale is None and back.rotary_base > config.rotary_base
        assert torch.equal(frequencies(back), frequencies(config))
    else:
        assert back == config


def test_ntk_divides_the_lowest_frequency_and_keeps_the_highest() -> None:
    plain, ntk = frequencies(CONFIG), frequencies(of(**SCALED["ntk"]))
    assert ntk[0] == plain[0] and ntk[-1] == pytest.approx(float(plain[-1]) / 4, rel=1e-5)


def test_an_attention_factor_is_the_methods_own_where_none_is_stated() -> None:
    longrope, yarn = (RotaryScale.model_validate(scale) for scale in (LONGROPE, YARN))
    assert longrope.cos_and_sin_by == pytest.approx((1 + 1 / 3) ** 0.5)  # ln 4 is a third of ln 64
    assert yarn.cos_and_sin_by == pytest.approx(1.1386294)
    bamba_9b = RotaryScale(kind="longrope", factor=4, original_tokens=4096)
    assert bamba_9b.cos_and_sin_by == pytest.approx(1.080, abs=5e-4)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rotary_scale": LONGROPE}, "rotary_factors: rotary_scale.kind longrope needs them"),
    ({"rotary_scale": YARN, "rotary_factors": FACTORS}, "rotary_scale.kind yarn makes its own"),
    ({"rotary_factors": [1.0] * 15}, "15 of them, and 16 pairs of features are rotated"),
    ({"rotary_factors": [0.0] * 16}, "rotary_factors: one is not above 0"),
    ({"rotary_scale": {"kind": "yarn", "factor": 4.0}}, "original_tokens: yarn needs it"),
    ({"rotary_scale": {"kind": "linear", "factor": 4.0, "original_tokens": 64}}, "original_tokens: linear has no use"),
    ({"rotary_scale": {"kind": "ntk", "factor": 4.0, "attention_factor": 1.1}}, "attention_factor: ntk has no use"),
    ({"rotary_factors": FACTORS, "rotary_scale": {**LONGROPE, "beta_fast": 1.0}}, "beta_fast: longrope has no use"),
    ({"rotary_scale": {**YARN, "beta_fast": 1.0}}, "beta_fast: 1 is not above beta_slow 1"),
    ({"rotary_scale": {"kind": "linear", "factor": 0.5}}, "greater than or equal to 1"),
    ({"rotary_scale": {"kind": "dynamic", "factor": 2.0}}, "'linear', 'ntk', 'yarn' or 'longrope'"),
    ({"rotary_scale": {"kind": "ntk", "factor": 2.0}, "rotary_fraction": 2 / 64}, "one pair of features is rotated"),
]


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_what_contradicts_itself_is_refused_by_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        of(**fields)


def test_a_model_without_it_says_nothing_of_it_so_recipes_of_before_keep_their_digest() -> None:
    assert isinstance(CONFIG, Strict) and not {"rotary_scale", "rotary_factors"} & CONFIG.model_dump().keys()
    scaled = of(**SCALED["longrope"])
    assert ModelConfig.model_validate(scaled.model_dump(mode="json")) == scaled


def test_a_checkpoint_may_go_on_with_another_scale_but_not_unnoticed() -> None:
    plain = load_recipe("tiny-cpu")
    longer = load_recipe("tiny-cpu", ['model.rotary_scale={"kind": "yarn", "factor": 4.0, "original_tokens": 64}'])
    assert longer.model.rotary_scale is not None and longer.learned_digest() != plain.learned_digest()
    assert describe_shape_changes(plain, longer) == []
