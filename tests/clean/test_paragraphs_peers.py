"""Our rule of OLMo finds what dolma's own deduper finds, with which OLMo's data were cleaned."""

import gzip
import json
from pathlib import Path

import pytest

from bamba_data.clean.contaminated import contaminated_job, scan, write_list
from bamba_data.clean.evaluation_texts import EvaluationText
from bamba_data.clean.paragraphs import counts
from bamba_data.derive.document_list import read_list
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.conformance import Certificate
from tests.clean.planting import dataset_of_texts
from tests.corpora import texts, write_jsonl
from tests.dolma_tool import dedupe

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]


def test_the_same_documents_are_found(tmp_path: Path, certificate: Certificate) -> None:
    """As AI2 did it: paragraphs of the evaluation that count go into the filter, and documents are held against it."""
    flat = [text[:600].replace("\n", " ") for text in texts()[:40]]
    prose = [f"{text[:250]}\n{text[250:]}" for text in flat]
    asked = [f"{prose[30 + n]}\n\nQuestion {n}: yes\n" for n in range(8)]
    documents = list(prose[:30])
    for number in range(0, 30, 3):
        paragraph = asked[number % 8].split("\n")[number % 4]  # of the last two, one has nothing and one few words
        documents[number] += f"\n{paragraph}\n{prose[number + 1][:80]}"
        documents[number + 1] += f" {paragraph}"
    url = dataset_of_texts(tmp_path, certificate, {"web": [documents]})
    job = contaminated_job(
        open_dataset(url), [EvaluationText("t", text) for text in asked], str(tmp_path / "w"), rule="olmo"
    )
    for group in range(len(job.groups)):
        scan(job, group)
    write_list(job, tmp_path / "list.parquet")
    ours = sorted(row for _, _, row in read_list(tmp_path / "list.parquet").entries.rows())

    long = [paragraph for text in asked for paragraph in text.split("\n") if counts(paragraph)]
    for name, its in (("asked", long), ("corpus", documents)):
        rows = [{"id": str(number), "text": text} for number, text in enumerate(its)]
        write_jsonl(tmp_path / name / "documents" / "0.json.gz", rows)
    how = {"paragraphs": {"attribute_name": "contaminated", "by_ngram": None, "paragraph_separator": "\n"}}
    dedupe(
        tmp_path,
        {"documents": "asked", "name": "asked", "dedupe": how, "read_only": False},
        {"documents": "corpus", "name": "found", "dedupe": how, "read_only": True},
    )
    lines = gzip.decompress((tmp_path / "corpus" / "attributes" / "found" / "0.json.gz").read_bytes()).splitlines()
    theirs = [number for number, line in enumerate(lines) if json.loads(line)["attributes"].get("contaminated")]
    assert ours == theirs
    assert 5 <= len(ours) < 30
