"""What we export, the other side's own reader opens: every document, id for id.

Megatron's is megatron-core, by its own `IndexedDataset`, mapped and not; its list of requirements is left out, of which
reading token files needs torch alone. The others are mosaicml-streaming, litdata and datatrove, by the datasets that
they give to a trainer.
"""

import json
from pathlib import Path

import pytest
import tokenizers

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


#: Of its requirements, those that reading tokens from a disk takes; the rest is among what the tests need.
LITDATA = ["--no-deps", "litdata==0.2.76", "boto3", "botocore", "s3transfer", "jmespath", "tifffile", "obstore"]
DATATROVE = ["--no-deps", "datatrove==0.10.1", "humanize", "loguru", "dill", "multiprocess"]
#: Alone: it wants an older numpy and an older transformers than ours.
STREAMING = ["mosaicml-streaming==0.13.0", "torch==2.13.0"]

READ_LITDATA = """
import json, sys
from litdata import StreamingDataset, TokensLoader

rows = StreamingDataset(sys.argv[1], item_loader=TokensLoader(block_size=int(sys.argv[2])), shuffle=False)
print(json.dumps([rows[number].tolist() for number in range(len(rows))]))
"""


@pytest.mark.parametrize("row_tokens", [1, 64])
def test_litdata_reads_every_row(demo: Path, tmp_path: Path, row_tokens: int) -> None:
    python = environment("litdata", LITDATA)
    for one in export(open_dataset(demo), "litdata", str(tmp_path), delimiters="eos"):
        folder = tmp_path / f"dataset={one.source}"
        found = json.loads(run(python, READ_LITDATA, folder, row_tokens).splitlines()[-1])
        chunks = json.loads((folder / "index.json").read_text())["chunks"]
        ids = iter(token for document in documents_of(demo, one.source, [], [EOS]) for token in document)
        rows = []
        for chunk in chunks:  # what is less than a row at the end of a chunk is left out there
            tokens = [next(ids) for _ in range(chunk["dim"])]
            rows += [tokens[n : n + row_tokens] for n in range(0, len(tokens) - row_tokens + 1, row_tokens)]
        assert found == rows
        assert next(ids, None) is None


READ_DATATROVE = """
import json, sys
from datatrove.utils.dataset import DatatroveFolderDataset

rows = DatatroveFolderDataset(sys.argv[1], seq_len=int(sys.argv[2]) - 1, token_size=2, return_positions=True)
print(json.dumps([[row["input_ids"].tolist(), row["positions"].tolist()] for row in rows]))
"""


def test_datatrove_reads_every_window_and_where_documents_begin(demo: Path, tmp_path: Path) -> None:
    python = environment("datatrove", DATATROVE)
    for one in export(open_dataset(demo), "nanoset", str(tmp_path), delimiters="eos"):
        folder = tmp_path / f"dataset={one.source}"
        found = json.loads(run(python, READ_DATATROVE, folder, 16).splitlines()[-1])
        documents = iter(documents_of(demo, one.source, [], [EOS]))
        windows = {}
        for line in (tmp_path / "meta" / f"files-{one.source}.csv").read_text().splitlines():
            name, count, _ = line.split(",")
            mine = [next(documents) for _ in range(int(count))]
            ids = [token for document in mine for token in document]
            places = [place for document in mine for place in range(len(document))]
            windows[name] = [
                # Positions count from the beginning of the window where that lies inside a document.
                [ids[at : at + 16], [min(place, n) for n, place in enumerate(places[at : at + 16])]]
                for at in range(0, len(ids) - 15, 16)
            ]
        assert next(documents, None) is None
        assert found == [window for name in sorted(windows) for window in windows[name]]


#: Its module of pictures wants a torchvision that does not import beside a CPU build of torch.
READ_MDS = """
import json, sys, types
sys.modules["streaming.vision"] = types.ModuleType("streaming.vision")
from streaming import StreamingDataset

samples = StreamingDataset(local=sys.argv[1], shuffle=False, batch_size=1)
print(json.dumps([str(samples[0]["tokens"].dtype), [sample["tokens"].tolist() for sample in samples]]))
"""


@pytest.mark.parametrize(("delimiters", "after"), [("eos", [EOS]), ("none", [])])
def test_mosaicml_streaming_reads_every_document(demo: Path, tmp_path: Path, delimiters: str, after: list[int]) -> None:
    python = environment("streaming", STREAMING, ours_below=False, without=["torchvision"])
    for one in export(open_dataset(demo), "mds", str(tmp_path), delimiters=delimiters):
        kind, found = json.loads(run(python, READ_MDS, tmp_path / f"dataset={one.source}").splitlines()[-1])
        assert kind == "uint16"
        assert found == documents_of(demo, one.source, [], after)


WRITE_DATATROVE = """
import sys
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerContextShuffler

folder, tokenizer, texts = sys.argv[1], sys.argv[2], [f"the {n} " * (n % 5 + 1) for n in range(40)]
common = dict(tokenizer_name_or_path=tokenizer, eos_token="<|endoftext|>", seed=1)
for name, asked in {
    "plain": dict(shuffle_documents=False),
    "shuffled": {},
    "chunks": dict(shuffle_chunk_size=16),
    "masked": dict(save_loss_metadata=True),
    "bare": dict(save_index=False, shuffle_documents=False),
}.items():
    step = DocumentTokenizer(f"{folder}/{name}", **common, **asked)
    for rank in range(2):
        step.run((Document(text=text, id=str(n)) for n, text in enumerate(texts) if n % 2 == rank), rank, 2)
DocumentTokenizerContextShuffler(f"{folder}/plain", f"{folder}/windows", window_size=8, seed=1).run()
"""


def test_what_datatrove_writes_is_imported_or_refused_by_what_it_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(environment("datatrove", DATATROVE), WRITE_DATATROVE, tmp_path, TOKENIZER)
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    texts = [f"the {number} " * (number % 5 + 1) for number in (*range(0, 40, 2), *range(1, 40, 2))]
    wanted = [encoded.ids for encoded in tokenizer.encode_batch(texts)]

    def said(name: str, code: int) -> str:
        command = ["import", str(tmp_path / "out" / name), str(tmp_path / name), "--from", "datatrove"]
        assert cli.run(cli.app, [*command, "--delimiters", "eos", "--tokenizer", str(TOKENIZER)]) == code
        return capsys.readouterr().err

    said("plain", 0)
    assert documents_of(tmp_path / "out" / "plain", "plain", [], []) == wanted
    said("shuffled", 0)
    shuffled = documents_of(tmp_path / "out" / "shuffled", "shuffled", [], [])
    assert shuffled != wanted and sorted(shuffled) == sorted(wanted)
    assert "shuffle_chunk_size" in said("chunks", 2)
    assert "save_loss_metadata" in said("masked", 2)
    for name in ("bare", "windows"):
        assert "has no .index" in said(name, 2)
