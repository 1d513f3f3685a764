"""Token files of datatrove become a dataset, or are refused by what is the matter with them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from bamba_data.errors import BambaError
from bamba_data.exchange import datatrove_reader
from bamba_data.exchange.export import export
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.storage.store import open_store
from pipelines.cli import app, run
from pipelines.dataset_build.token_import import import_tokens, token_import
from tests.corpora import TOKENIZER
from tests.exports import documents_of
from tests.token_files import write_datatrove

EOS = 50279


def bring(
    out: Path, *places: str | Path, form: str = "datatrove", tokenizer: Path = TOKENIZER, delimiters: str = "none"
) -> None:
    about: dict[str, Any] = {"bos_id": None, "eos_id": None, "name": "imported", "license": "CC0-1.0"}
    wanted = token_import(form, [str(place) for place in places], tokenizer, delimiters, attribution="us", **about)
    import_tokens(wanted, open_store(out))


def test_what_was_exported_and_imported_has_the_same_documents(tiny: Path, tmp_path: Path) -> None:
    export(open_dataset(tiny), "nanoset", str(tmp_path / "there"), delimiters="eos")
    folders = sorted((tmp_path / "there").glob("dataset=*"))
    bring(tmp_path / "back", *folders, form="nanoset", delimiters="eos")
    assert verify(str(tmp_path / "back"), full=True).faults == []
    assert [folder.name for folder in folders] == ["dataset=lines", "dataset=rows"]
    for source in ("lines", "rows"):  # a folder's files are read by name, which is not the order of the manifest
        assert sorted(documents_of(tmp_path / "back", source, [], [])) == sorted(documents_of(tiny, source, [], []))


def test_a_folder_is_a_source_and_its_files_are_named_with_what_was_read(tmp_path: Path) -> None:
    second = write_datatrove(tmp_path / "in" / "b.ds", [[7], [], [8, 9]])
    first = write_datatrove(tmp_path / "in" / "a.ds", [[1, 2], [3]])
    first.with_name("a.ds.metadata").unlink()
    bring(tmp_path / "out", f"mine={tmp_path / 'in'}")
    dataset = open_dataset(tmp_path / "out")
    assert documents_of(tmp_path / "out", "mine", [], []) == [[1, 2], [3], [7], [8, 9]]
    files = dataset.files.to_dicts()
    assert [(file["path"], file["read"], file["kept"], file["dropped"]) for file in files] == [
        ("a.ds", 2, 2, 0),
        ("a.ds.index", 0, 0, 0),
        ("b.ds", 3, 2, 1),
        ("b.ds.index", 0, 0, 0),
        ("b.ds.metadata", 0, 0, 0),
    ]
    assert files[2]["sha256"] == hashlib.sha256(second.read_bytes()).hexdigest()
    assert verify(str(tmp_path / "out"), full=True).faults == []
    export(dataset, "jsonl", str(tmp_path / "lines"))
    lines = "".join(path.read_text() for path in sorted((tmp_path / "lines").rglob("*.jsonl")))
    assert '"document_id": "b:2", "file": "b.ds", "row": 2' in lines


def test_ids_of_four_bytes_are_read_and_a_narrow_file_of_a_wide_tokenizer_is_refused(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{n}": n for n in range(70_000)}, unk_token="w0"))
    made.save(str(tmp_path / "words.json"))
    wide = write_datatrove(tmp_path / "wide.ds", [[69_999, 5], [65_536]], 4)
    bring(tmp_path / "out", wide, tokenizer=tmp_path / "words.json")
    assert documents_of(tmp_path / "out", "wide", [], []) == [[69_999, 5], [65_536]]
    wide.with_name("wide.ds.metadata").unlink()
    bring(tmp_path / "again", tmp_path / "wide", tokenizer=tmp_path / "words.json")
    assert documents_of(tmp_path / "again", "wide", [], []) == [[69_999, 5], [65_536]]
    narrow = write_datatrove(tmp_path / "narrow.ds", [[1]], 2, "gpt2")
    with pytest.raises(BambaError, match=r"2 bytes, too few for a tokenizer of 70,000 \(their metadata name 'gpt2'\)"):
        bring(tmp_path / "no", narrow, tokenizer=tmp_path / "words.json")


def test_more_documents_than_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datatrove_reader, "PIECE_DOCUMENTS", 4)
    documents = [[number % 7 + 1] * (number % 5) for number in range(50)]
    bring(tmp_path / "out", write_datatrove(tmp_path / "a.ds", documents))
    assert documents_of(tmp_path / "out", "a", [], []) == [document for document in documents if document]


def change(ending: str, how: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def changed(ids: Path) -> None:
        path = ids.with_name(ids.name + ending)
        path.write_bytes(how(path.read_bytes()))

    return changed


def put(data: bytes, start: int, value: int, size: int) -> bytes:
    return data[:start] + value.to_bytes(size, "little") + data[start + size :]


#: What is done to three documents of two ids each, and what is said of it, by exit code.
BROKEN: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no index": (lambda ids: ids.with_name("a.ds.index").unlink(), 2, r"a\.ds: has no \.index, .* context shuffler"),
    "a mask": (lambda ids: ids.with_name("a.ds.loss").write_bytes(b"\1" * 6), 2, r"a\.ds\.loss: says which ids are no"),
    "what nobody knows": (lambda ids: ids.with_name("a.ds.mask").touch(), 2, r"a\.ds\.mask: is beside token files"),
    "an index that is cut": (change(".index", lambda data: data[:-3]), 5, "21 bytes, no multiple of 8"),
    "an index without its last": (change(".index", lambda data: data[:-8]), 5, r"metadata: says 6 ids, the index 4"),
    "ends out of order": (change(".index", lambda data: put(data, 8, 1, 8)), 5, "do not end one after another"),
    "an end beyond all": (change(".index", lambda data: put(data, 16, 2**64 - 1, 8)), 5, "do not end one after"),
    "ids that are cut": (change("", lambda data: data[:-1]), 5, "has 11 bytes, its index names 6 ids of 2 bytes"),
    "ids of another index": (change("", lambda data: data * 3), 5, "has 36 bytes, its index names 6 ids of 2 bytes"),
    "metadata of another width": (
        change(".metadata", lambda data: data.replace(b"|2", b"|4")),
        5,
        "has 12 bytes, its index names 6 ids of 4 bytes",
    ),
    "metadata of no width": (change(".metadata", lambda data: b"gpt2\n6\n6 T"), 2, "metadata: begins with 'gpt2'"),
    "metadata of other ids": (
        change(".metadata", lambda data: data.replace(b"\n6\n", b"\n7\n")),
        5,
        "says 7 ids, the index 6",
    ),
    "another tokenizer's": (
        change(".metadata", lambda data: data.replace(b"words", b"sha256:" + b"0" * 64)),
        2,
        r"metadata name the tokenizer sha256:000000000000…, and the one that was given is sha256:",
    ),
    "an id beyond the vocabulary": (
        change("", lambda data: put(data, 6, 60_000, 2)),
        2,
        r"a\.ds: document 1 has id 60,000 at place 1, the tokenizer has 50,280 ids: give the tokenizer",
    ),
}


@pytest.mark.parametrize(("broken", "code", "said"), BROKEN.values(), ids=BROKEN)
def test_files_that_are_broken_are_called_by_what_is_wrong_and_nothing_is_published(
    tmp_path: Path, broken: Callable[[Path], object], code: int, said: str
) -> None:
    ids = write_datatrove(tmp_path / "a.ds", [[1, 2], [3, 4], [5, 6]])
    broken(ids)
    with pytest.raises(BambaError, match=said) as raised:
        bring(tmp_path / "out", ids)
    assert raised.value.exit_code == code
    assert not (tmp_path / "out" / "_bamba" / "versions").exists()


@pytest.mark.parametrize(
    ("documents", "delimiters", "said"),
    [
        ([[1, EOS]], "none", r"first document ends with <\|endoftext\|> \(id 50279\), .* say --delimiters eos"),
        ([[1, EOS], [1, 2], [3, EOS]], "eos", r"document 1 .* cut into chunks \(shuffle_chunk_size\)"),
        ([[], []], "none", "no document with an id in it"),
        ([], "none", "no document with an id in it"),
    ],
)
def test_delimiters_that_are_not_those_of_the_files_are_refused(
    tmp_path: Path, documents: list[list[int]], delimiters: str, said: str
) -> None:
    with pytest.raises(BambaError, match=said):
        bring(tmp_path / "out", write_datatrove(tmp_path / "a.ds", documents), delimiters=delimiters)
    assert not (tmp_path / "out" / "_bamba" / "versions").exists()


def test_a_folder_without_files_and_a_file_that_is_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for place, said in (("empty", "has no file that ends in .ds"), ("nix", "nix.ds")):
        words = ["import", str(tmp_path / "out"), str(tmp_path / place), "--from", "datatrove", "--delimiters", "none"]
        assert run(app, [*words, "--tokenizer", str(TOKENIZER)]) == 2
        assert said in capsys.readouterr().err
