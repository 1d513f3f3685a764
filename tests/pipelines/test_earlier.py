"""A plan that is not the last one here says what changed; the same plan again says nothing."""

from pathlib import Path

from bamba_data.storage.store import LocalStore
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.plan_history import remark
from tests.building import prepared, tiny_inputs


def said(folder: Path, certificate: Certificate, *overrides: str) -> str | None:
    recipe = folder / "tiny.yaml" if (folder / "tiny.yaml").exists() else tiny_inputs(folder)
    ready = prepared(folder / "out", certificate, str(recipe), overrides)
    return remark(LocalStore(folder / "out"), ready.plan, ready.tokenizer.sha256, ready.lock_digest)


def test_the_first_plan_of_a_place_and_the_same_again_need_no_word(tmp_path: Path, certificate: Certificate) -> None:
    assert said(tmp_path, certificate) is None
    assert said(tmp_path, certificate) is None


def test_another_plan_names_the_fields_that_changed(tmp_path: Path, certificate: Certificate) -> None:
    said(tmp_path, certificate)
    line = said(tmp_path, certificate, "shards.block_tokens=900", "corpora.0.license=MIT")
    assert line and "recipe.shards.block_tokens: 700 -> 900" in line and "license" in line


def test_what_cannot_change_the_bytes_is_no_other_plan(tmp_path: Path, certificate: Certificate) -> None:
    said(tmp_path, certificate)
    assert said(tmp_path, certificate, "bad_input.max_bad_rate=0.25", "network.burst=9") is None
