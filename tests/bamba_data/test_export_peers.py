"""What we export, the other side's own reader opens: every document, id for id.

Megatron's is megatron-core, by its own `IndexedDataset`, mapped and not; its list of requirements is left out, of which
reading token files needs torch alone.
"""

import json
from pathlib import Path

import pytest

from bamba_data.exchange.export import export
from bamba_data.format.dataset import open_dataset
from pipelines import cli
from tests.corpora import TOKENIZER
from tests.exports import documents_of
from tests.peers import environment, run

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

#: It asks for a newer Python than ours may be; its reader of token files runs on ours.
MEGATRON = ["--no-deps", "--ignore-requires-python", "megatron-core==0.19.0"]
EOS = 50279

READ_MEGATRON = """
import json, sys
from megatron.core.datasets.indexed_dataset import IndexedDataset

found = []
for mmap in (True, False):
    dataset = IndexedDataset(sys.argv[1], mmap=mmap)
    assert dataset.document_indices.tolist() == list(range(len(dataset) + 1))
    found.append([dataset[number].tolist() for number in range(len(dataset))])
assert found[0] == found[1]
print(json.dumps([str(dataset.index.dtype.__name__), found[0]]))
"""


@pytest.mark.parametrize(("delimiters", "after"), [("eos", [EOS]), ("none", [])])
def test_megatron_core_reads_every_document(demo: Path, tmp_path: Path, delimiters: str, after: list[int]) -> None:
    python = environment("megatron", MEGATRON)
    for one in export(open_dataset(demo), "megatron", str(tmp_path), delimiters=delimiters):
        kind, found = json.loads(run(python, READ_MEGATRON, tmp_path / one.source).splitlines()[-1])
        assert kind == "uint16"
        assert found == documents_of(demo, one.source, [], after)


WRITE_MEGATRON = """
import sys
import numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

builder = IndexedDatasetBuilder(sys.argv[1] + ".bin", dtype=numpy.uint16)
for number in range(30):
    for length in range(number % 3 + 1):
        builder.add_item(torch.arange(number, number + length + 1))
    builder.end_document()
builder.finalize(sys.argv[1] + ".idx")
"""


def test_what_megatron_core_writes_is_imported(tmp_path: Path) -> None:
    run(environment("megatron", MEGATRON), WRITE_MEGATRON, tmp_path / "theirs")
    command = ["import", str(tmp_path / "out"), str(tmp_path / "theirs"), "--from", "megatron"]
    assert cli.run(cli.app, [*command, "--delimiters", "none", "--tokenizer", str(TOKENIZER)]) == 0
    wanted = [[*range(n, n + 1), *range(n, n + 2), *range(n, n + 3)][: (1, 3, 6)[n % 3]] for n in range(30)]
    assert documents_of(tmp_path / "out", "theirs", [], []) == wanted
