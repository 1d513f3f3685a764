"""docs/text_sources.md: its examples run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest

from bamba_data.tokenization.conformance import Certificate
from tests.corpora import recipe
from tests.loader.texts import index, source, write_texts

DOCUMENT = Path(__file__).parents[2] / "docs" / "text_sources.md"


def test_every_example_of_the_guide_runs(
    tmp_path: Path, demo: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_texts(tmp_path / "inputs")
    monkeypatch.setenv("BAMBA_CACHE", str(tmp_path / "cache"))
    written = recipe(tmp_path, ["*.parquet"], "parquet")
    for block_tokens in (1 << 18, 4096):  # of the guide's source, and of the recipe's: certified already
        index(source(folder, block_tokens=block_tokens), tmp_path / "cache" / "text", certificate, tmp_path)
    names: dict[str, Any] = {"FOLDER": str(folder), "DATASET": str(demo), "RECIPE": str(written)}
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    shapes = []
    for example in examples:
        exec(example, names)
        shapes.append(tuple(next(names["loader"])["input_ids"].shape))
    assert shapes == [(4, 256)] * 4
