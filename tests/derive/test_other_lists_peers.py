"""Lists of duplicates are made here by the tools themselves, and read: a whole run of datatrove, dolma's deduper, and
the stage of NeMo Curator that writes its list and needs no GPU.
"""

import json
from pathlib import Path

import pytest

from bamba_data.derive.other_lists import read_any_list
from bamba_data.errors import UserError
from tests.corpora import write_jsonl
from tests.dolma_tool import dedupe
from tests.peers import environment, run

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

#: A newer xxhash takes no text, which its signatures hand it.
DATATROVE = ["datatrove==0.10.1", "xxhash==3.5.0", "orjson", "nltk", "tokenizers", "spacy"]
NEMO = ["--no-deps", "nemo-curator==1.4.0", "cosmos-xenna==0.2.0", "loguru", "obstore", "portpicker", "pulp", "cattrs"]
NEMO += ["tabulate"]

MINHASH = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

def step(number, tasks, *pipeline):
    LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=1, logging_dir=f"{folder}/logs/{number}").run()

if __name__ == "__main__":
    folder, config = sys.argv[1], MinhashConfig()
    read = JsonlReader(f"{folder}/documents")
    step(1, 2, read, MinhashDedupSignature(f"{folder}/signatures", config=config))
    step(2, config.num_buckets, MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config))
    step(3, 1, MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config))
    excluded = JsonlWriter(f"{folder}/excluded")
    step(4, 2, read, MinhashDedupFilter(f"{folder}/remove", exclusion_writer=excluded))
"""

SEMANTIC = """
import os, sys, types
import pandas
import nemo_curator.stages.deduplication as deduplication

name = "nemo_curator.stages.deduplication.semantic"
package = types.ModuleType(name)  # its own __init__ imports stages that need a GPU
package.__path__ = [f"{deduplication.__path__[0]}/semantic"]
sys.modules[name] = package
from nemo_curator.stages.deduplication.semantic.identify_duplicates import IdentifyDuplicatesStage
from nemo_curator.tasks import FileGroupTask

folder = sys.argv[1]
pairs = {"id": ["doc-3", "doc-101", "doc-7"], "max_id": ["a", "b", "c"], "cosine_sim_score": [0.99, 0.98, 0.2]}
pandas.DataFrame(pairs).to_parquet(f"{folder}/pairs.parquet")
os.mkdir(f"{folder}/ids")
stage = IdentifyDuplicatesStage(output_path=f"{folder}/ids", eps=0.1)
stage.process_batch([FileGroupTask(dataset_name="texts", data=[f"{folder}/pairs.parquet"])])
"""


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """Twenty texts in two files, of which the third of the second file is a text of the first one again."""
    rows = [{"id": f"doc-{n}", "text": "".join(_words(1000 * n, 60)) + f"\nend of {n}"} for n in range(20)]
    rows[13]["text"] = rows[3]["text"]
    for file in range(2):
        lines = [json.dumps(row).encode() + b"\n" for row in rows[10 * file : 10 * file + 10]]
        write_jsonl(tmp_path / "documents" / f"{file}.json.gz", b"".join(lines))
    return tmp_path


def _words(seed: int, count: int) -> list[str]:
    """Distinct words of letters alone: datatrove takes all numbers for one."""
    return ["".join(chr(97 + int(digit)) for digit in str((seed + n) * 7919 + 10**6)) + " " for n in range(count)]


def test_what_datatrove_excluded_is_read(twice: Path) -> None:
    run(environment("datatrove", DATATROVE, ours_below=False), MINHASH, twice)
    left = read_any_list(twice / "excluded", "datatrove").entries["document_id"].to_list()
    assert left in (["doc-3"], ["doc-13"])  # whichever it keeps
    with pytest.raises(UserError, match="exclusion_writer"):
        read_any_list(twice / "remove", "datatrove")


def test_what_dolma_marked_is_read_and_marks_of_paragraphs_are_refused(twice: Path) -> None:
    text = {"documents": {"attribute_name": "dup", "key": "$.text"}}
    paragraphs = {"paragraphs": {"attribute_name": "dup", "by_ngram": None, "paragraph_separator": "\n"}}
    dedupe(twice, {"documents": "", "name": "whole", "dedupe": text, "read_only": False})
    assert read_any_list(twice / "attributes" / "whole", "dolma", "dup").entries["document_id"].to_list() == ["doc-13"]
    (twice / "bloom.bin").unlink()
    dedupe(twice, {"documents": "", "name": "parts", "dedupe": paragraphs, "read_only": False})
    with pytest.raises(UserError, match="scores and parts of documents are not dropped"):
        read_any_list(twice / "attributes" / "parts", "dolma", "dup")


def test_the_ids_that_nemo_curator_wrote_are_read(tmp_path: Path) -> None:
    run(environment("nemo-curator", NEMO), SEMANTIC, tmp_path)
    assert set(read_any_list(tmp_path / "ids", "nemo").entries["document_id"]) == {"doc-3", "doc-101"}
