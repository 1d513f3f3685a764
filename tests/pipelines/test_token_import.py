"""Token files become a dataset that is like any other, or are refused by what is the matter with them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from bamba_data.errors import BambaError
from bamba_data.exchange import megatron_reader
from bamba_data.exchange.export import export
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.storage.store import open_store
from pipelines.cli import app, run
from pipelines.dataset_build.token_import import import_tokens, token_import
from tests.corpora import TOKENIZER
from tests.exports import documents_of, read_megatron
from tests.token_files import write_token_files

EOS = 50279


def bring(out: Path, *prefixes: str | Path, tokenizer: Path = TOKENIZER, delimiters: str = "none", **more: Any) -> None:
    asked = {"bos_id": None, "eos_id": None, "name": "imported", "license": "CC0-1.0", "attribution": "us", **more}
    wanted = token_import("megatron", [str(prefix) for prefix in prefixes], tokenizer, delimiters, **asked)
    import_tokens(wanted, open_store(out))


def test_what_was_exported_and_imported_has_the_same_documents(tiny: Path, tmp_path: Path) -> None:
    export(open_dataset(tiny), "megatron", str(tmp_path / "there"), delimiters="both", bos_id=3)
    bring(tmp_path / "back", tmp_path / "there" / "lines", tmp_path / "there" / "rows.idx", delimiters="both", bos_id=3)
    assert verify(str(tmp_path / "back"), full=True).faults == []
    for source in ("lines", "rows"):
        assert documents_of(tmp_path / "back", source, [], []) == documents_of(tiny, source, [], [])


def test_the_manifest_says_which_files_and_which_document_of_their_index(tmp_path: Path) -> None:
    prefix = write_token_files(tmp_path / "in" / "a", [[[1, 2]], [], [[3], [4, 5]], [[6]]])
    bring(tmp_path / "out", f"mine={prefix}")
    dataset = open_dataset(tmp_path / "out")
    assert documents_of(tmp_path / "out", "mine", [], []) == [[1, 2], [3, 4, 5], [6]]
    files = dataset.files.to_dicts()
    assert [(file["path"], file["read"], file["kept"], file["dropped"]) for file in files] == [
        ("a.bin", 4, 3, 1),
        ("a.idx", 0, 0, 0),
    ]
    assert [file["sha256"] for file in files] == [
        hashlib.sha256(prefix.with_suffix(ending).read_bytes()).hexdigest() for ending in (".bin", ".idx")
    ]
    (source,) = dataset.manifest.sources
    assert (source.corpus, source.license, source.attribution) == ("megatron", "CC0-1.0", "us")
    assert source.account.dropped == {"empty_text": 1}
    export(dataset, "jsonl", str(tmp_path / "lines"))
    lines = [
        json.loads(line) for path in (tmp_path / "lines").rglob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert [(line["file"], line["row"], line["document_id"]) for line in lines] == [
        ("a.bin", 0, "a:0"),
        ("a.bin", 2, "a:2"),
        ("a.bin", 3, "a:3"),
    ]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
def test_ids_of_every_type_are_read(tmp_path: Path, dtype: str) -> None:
    bring(tmp_path / "out", write_token_files(tmp_path / "a", [[[1, 100]], [[7]]], dtype))
    assert documents_of(tmp_path / "out", "a", [], []) == [[1, 100], [7]]


def test_a_large_vocabulary_goes_in_and_out_as_int32(tmp_path: Path) -> None:
    vocabulary = {f"w{number}": number for number in range(70_000)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    made.save(str(tmp_path / "words.json"))
    prefix = write_token_files(tmp_path / "a", [[[69_999, 5]], [[65_536]]], "int32")
    bring(tmp_path / "out", prefix, tokenizer=tmp_path / "words.json")
    assert open_dataset(tmp_path / "out").manifest.tokenizer.token_dtype == "<u4"
    assert verify(str(tmp_path / "out"), full=True).faults == []
    export(open_dataset(tmp_path / "out"), "megatron", str(tmp_path / "back"), delimiters="none")
    assert read_megatron(tmp_path / "back" / "a") == [[69_999, 5], [65_536]]
    for ending in (".bin", ".idx"):
        assert (tmp_path / "back" / f"a{ending}").read_bytes() == (tmp_path / f"a{ending}").read_bytes()


def test_more_documents_than_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megatron_reader, "PIECE_DOCUMENTS", 4)
    documents = [[[number % 7 + 1] * (number % 3 + 1)] * (number % 4) for number in range(50)]
    bring(tmp_path / "out", write_token_files(tmp_path / "a", documents))
    wanted = [[token for sequence in document for token in sequence] for document in documents if document]
    assert documents_of(tmp_path / "out", "a", [], []) == wanted


Change = Callable[[bytearray, bytearray], object]


def set_bytes(data: bytearray, start: int, value: int, size: int) -> None:
    data[start : start + size] = value.to_bytes(size, "little", signed=value < 0)


#: What is done to the index (and the ids) of three documents of two ids each, and what is said of it, by exit code.
BROKEN: dict[str, tuple[Change, int, str]] = {
    "no index": (lambda idx, ids: set_bytes(idx, 0, 0, 2), 2, "a.idx: is no index of Megatron's token files"),
    "of another version": (lambda idx, ids: set_bytes(idx, 9, 2, 8), 2, "is an index of version 2: version 1 is read"),
    "of an unknown type": (lambda idx, ids: set_bytes(idx, 17, 17, 1), 2, r"type 17 for its ids: .* 8 \(uint16\)"),
    "of a type for no ids": (lambda idx, ids: set_bytes(idx, 17, 7, 1), 2, r"type 7 \(float32\): ids are whole"),
    "of pictures": (lambda idx, ids: idx.extend(b"\0\1\0"), 2, "a mode for each sequence"),
    "an index that is cut": (lambda idx, ids: idx.__delitem__(slice(-5, None)), 5, "97 bytes, .* cut short or damaged"),
    "an index of nothing": (lambda idx, ids: idx.__delitem__(slice(20, None)), 2, "is no index"),
    "ids that are cut": (lambda idx, ids: ids.pop(), 5, r"a\.bin: has 11 bytes, its index names 6 ids of 2 bytes"),
    "ids of another index": (lambda idx, ids: ids.extend(b"\1\0"), 5, "has 14 bytes, its index names 6 ids"),
    "a length below zero": (lambda idx, ids: set_bytes(idx, 34, -2, 4), 5, "length below zero"),
    "a gap": (lambda idx, ids: set_bytes(idx, 46 + 8, 6, 8), 5, "do not lie end to end"),
    "documents out of order": (lambda idx, ids: set_bytes(idx, 70 + 8, 3, 8), 5, "does not go from sequence 0 upwards"),
    "a first document that is left out": (lambda idx, ids: set_bytes(idx, 70, 1, 8), 5, "does not go from sequence 0"),
    "a last document that is left out": (lambda idx, ids: set_bytes(idx, 94, 2, 8), 5, "ends at sequence 2 of 3"),
    "an id beyond the vocabulary": (
        lambda idx, ids: set_bytes(ids, 6, 60_000, 2),
        2,
        r"a\.bin: document 1 has id 60,000 at place 1, the tokenizer has 50,280 ids: give the tokenizer",
    ),
}


@pytest.mark.parametrize(("change", "code", "said"), BROKEN.values(), ids=BROKEN)
def test_files_that_are_broken_are_called_by_what_is_wrong_and_nothing_is_published(
    tmp_path: Path, change: Change, code: int, said: str
) -> None:
    prefix = write_token_files(tmp_path / "a", [[[1, 2]], [[3, 4]], [[5, 6]]])
    pair = [bytearray(prefix.with_suffix(ending).read_bytes()) for ending in (".idx", ".bin")]
    change(*pair)
    for ending, data in zip((".idx", ".bin"), pair, strict=True):
        prefix.with_suffix(ending).write_bytes(data)
    with pytest.raises(BambaError, match=said) as raised:
        bring(tmp_path / "out", prefix)
    assert raised.value.exit_code == code
    assert not (tmp_path / "out" / "_bamba" / "versions").exists()


def test_an_id_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BambaError, match=r"document 1 has id -1 at place 0"):
        bring(tmp_path / "out", write_token_files(tmp_path / "a", [[[1]], [[-1, 2]]], "int32"))


@pytest.mark.parametrize(
    ("documents", "delimiters", "said"),
    [
        ([[[1, EOS]]], "none", r"first document ends with <\|endoftext\|> \(id 50279\), .* say --delimiters eos"),
        ([[[EOS, 1]]], "none", r"first document begins with <\|endoftext\|>"),
        ([[[1, 2]]], "eos", r"document 0 begins with \[1\] and ends with \[2\], not with \[\] and \[50279\]"),
        ([[[1, EOS]], [[1, 2]]], "eos", r"document 1 .* say which --delimiters"),
        ([[[EOS]]], "eos", "nothing but empty documents"),
        ([[], []], "none", "no document with an id in it"),
    ],
)
def test_delimiters_that_are_not_those_of_the_files_are_refused(
    tmp_path: Path, documents: list[list[list[int]]], delimiters: str, said: str
) -> None:
    with pytest.raises(BambaError, match=said):
        bring(tmp_path / "out", write_token_files(tmp_path / "a", documents), delimiters=delimiters)
    assert not (tmp_path / "out" / "_bamba" / "versions").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--from", "arrow", "--delimiters", "none"], "--from arrow: it can be megatron, datatrove, nanoset"),
        (["a", "a", "--from", "megatron", "--delimiters", "none"], "two sources would be called a"),
        (["a b=a", "--from", "megatron", "--delimiters", "none"], "'a b' cannot be the name"),
        (["a", "--from", "megatron"], "Missing option '--delimiters'"),
        (["a", "--from", "megatron", "--delimiters", "none", "--eos-id", "3"], "--eos-id 3 is given"),
        (["nix", "--from", "megatron", "--delimiters", "none"], "nix"),
    ],
)
def test_a_command_that_contradicts_itself_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    write_token_files(tmp_path / "a", [[[1, 2]]])
    monkeypatch.chdir(tmp_path)
    assert run(app, ["import", "out", *words, "--tokenizer", str(TOKENIZER)]) == 2
    assert said in capsys.readouterr().err


def test_the_command_publishes_the_next_version_and_trace_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for number, ids in enumerate(([5, 6], [5, 7]), 1):
        prefix = write_token_files(tmp_path / "a", [[ids]])
        command = ["import", out, str(prefix), "--from", "megatron", "--delimiters", "none"]
        assert run(app, [*command, "--tokenizer", str(TOKENIZER), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["version"]["number"] == number
    assert run(app, ["trace", out, "--document", "a:a:0"]) == 0
    assert "imported from token files" in capsys.readouterr().out
