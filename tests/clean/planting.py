"""Real datasets of texts that a test chooses, in many small shards."""

import json
from pathlib import Path

from bamba_data.tokenization.conformance import Certificate
from tests.building import build
from tests.corpora import TOKENIZER, write_jsonl


def dataset_of_texts(folder: Path, certificate: Certificate, sources: dict[str, list[list[str]]]) -> Path:
    """A dataset of these texts: a list a file, a source of lists. Document `web-1-2` is text 2 of file 1 of web."""
    corpora = []
    for name, files in sources.items():
        for number, texts in enumerate(files):
            rows = [{"id": f"{name}-{number}-{row}", "text": text} for row, text in enumerate(texts)]
            write_jsonl(folder / name / f"{number}.jsonl", rows)
        about = {"corpus": "folder", "name": name, "base": name, "form": "jsonl", "files": ["*.jsonl"]}
        corpora.append({**about, "license": "CC0-1.0"})
    recipe = folder / "planted.yaml"
    fields = {"name": "planted", "tokenizer": {"url": f"package:{TOKENIZER.name}"}, "corpora": corpora}
    recipe.write_text(
        json.dumps({**fields, "shards": {"block_tokens": 200, "blocks_per_shard": 2}, "unit_bytes": 1000})
    )
    build(folder / "dataset", certificate, str(recipe))
    return folder / "dataset"
