"""A source that is not what the recipe says ends a real build on Ray soon, with exit code 3, and is not tried again."""

from pathlib import Path

import pytest

from tests import corpora
from tests.running import bamba

pytestmark = pytest.mark.ray


@pytest.mark.costly
def test_one_wrong_source_ends_the_build_and_the_same_command_is_not_tried_again(tmp_path: Path) -> None:
    for n in range(6):
        corpora.write_jsonl(tmp_path / f"inputs/right-{n}.jsonl", corpora.records(3000, 3000 * n))
    wrong = [{"id": str(n), "content": "Call me Ishmael."} for n in range(2000)]
    corpora.write_jsonl(tmp_path / "inputs/wrong.jsonl", wrong)
    recipe = tmp_path / "two.yaml"
    recipe.write_text(f"""
name: two
tokenizer: {{url: package:{corpora.TOKENIZER.name}}}
corpora:
  - {{corpus: folder, name: right, base: inputs, form: jsonl, files: ["right-*"]}}
  - {{corpus: folder, name: wrong, base: inputs, form: jsonl, files: ["wrong*"]}}
unit_bytes: 1
""")
    done = bamba("build", recipe, "--out", tmp_path / "out", "--workers", "2", timeout=400)
    assert done.returncode == 3, done.stderr
    assert "wrong/wrong.jsonl: 1,000 of its first 1,000 records are bad" in done.stderr
    assert "is it `text: {text_field: content}`?" in done.stderr
    assert "Traceback" not in done.stderr
    again = bamba("build", recipe, "--out", tmp_path / "out")
    assert again.returncode == 3
    assert "1,000 of its first 1,000" in again.stderr
