"""An export holds every document of the dataset, in its order, with the chosen delimiters, and nothing else."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bamba_data.errors import BambaError, CorruptManifest, Unfinished, UserError
from bamba_data.exchange import offset_files
from bamba_data.exchange.appended_file import held
from bamba_data.exchange.export import FORMS, export
from bamba_data.exchange.export_record import read_record
from bamba_data.exchange.jsonl_export import texts_of
from bamba_data.exchange.mds_export import samples_of
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.cli import app, run
from tests.exports import (
    documents_of,
    read_arrow,
    read_jsonl,
    read_litdata,
    read_mds,
    read_megatron,
    read_nanoset,
)

ROOT = Path(__file__).parents[2]
EOS = 50279  # <|endoftext|> of the tokenizer that ships with us

#: How the documents of a source are read back.
READERS: dict[str, Callable[[Path, str], list[list[int]]]] = {
    "megatron": lambda out, source: read_megatron(out / source),
    "arrow": lambda out, source: read_arrow(out / f"dataset={source}"),
    "jsonl": lambda out, source: [line["tokens"] for line in read_jsonl(out / f"dataset={source}")],
    "mds": lambda out, source: read_mds(out / f"dataset={source}"),
    "litdata": lambda out, source: read_litdata(out / f"dataset={source}"),
    "nanoset": lambda out, source: read_nanoset(out / f"dataset={source}"),
}


def test_every_form_is_read_back_here() -> None:
    assert set(READERS) == set(FORMS)


@pytest.mark.parametrize(
    ("kind", "before", "after"), [("none", [], []), ("eos", [], [EOS]), ("bos", [3], []), ("both", [3], [EOS])]
)
@pytest.mark.parametrize("form", READERS)
def test_every_document_is_there_once_in_order_with_its_delimiters(
    tiny: Path, tmp_path: Path, form: str, kind: str, before: list[int], after: list[int]
) -> None:
    dataset = open_dataset(tiny)
    exported = export(dataset, form, str(tmp_path), delimiters=kind, bos_id=3 if before else None)
    assert [one.source for one in exported] == [source.name for source in dataset.manifest.sources]
    for one in exported:
        wanted = documents_of(tiny, one.source, before, after)
        assert READERS[form](tmp_path, one.source) == wanted
        assert (one.documents, one.tokens) == (len(wanted), sum(map(len, wanted)))
        assert all(Path(result).exists() for result in one.results)


@pytest.mark.parametrize("form", READERS)
def test_one_source_alone_is_exported_and_the_other_added_later(tiny: Path, tmp_path: Path, form: str) -> None:
    first, second = (source.name for source in open_dataset(tiny).manifest.sources)
    export(open_dataset(tiny), form, str(tmp_path), [second], "none")
    with pytest.raises((FileNotFoundError, AssertionError)):
        READERS[form](tmp_path, first)
    again = export(open_dataset(tiny), form, str(tmp_path), delimiters="none")
    assert [one.was_there for one in again] == [False, True]
    for source in (first, second):
        assert READERS[form](tmp_path, source) == documents_of(tiny, source, [], [])


@pytest.mark.parametrize("form", READERS)
def test_an_export_from_s3_is_the_one_from_the_disk(tiny: Path, tmp_path: Path, bucket: str, form: str) -> None:
    import s3fs

    s3fs.S3FileSystem().put(f"{tiny}/", f"{bucket}/d", recursive=True)
    export(open_dataset(f"{bucket}/d"), form, str(tmp_path), delimiters="eos")
    for source in open_dataset(tiny).manifest.sources:
        assert READERS[form](tmp_path, source.name) == documents_of(tiny, source.name, [], [EOS])


def test_the_counts_of_arrow_files_list_every_file_of_every_source(tiny: Path, tmp_path: Path) -> None:
    dataset = open_dataset(tiny)
    for source in ("rows", "lines"):
        export(dataset, "arrow", str(tmp_path), [source])
    with (tmp_path / "meta" / "counts.csv").open() as file:
        rows = {row["dataset/filename"]: row for row in csv.DictReader(file)}
    files = [path.relative_to(tmp_path) for path in tmp_path.glob("dataset=*/*")]
    assert set(rows) == {f"/{path}" for path in files}
    assert len(files) == len(dataset.shards)
    for path in files:
        batches = pa.ipc.open_file(pa.memory_map(str(tmp_path / path)))
        row = rows[f"/{path}"]
        assert (int(row["documents"]), int(row["tokens"])) == (batches.num_record_batches, batches.read_all().num_rows)
    assert [path.name for path in (tmp_path / "meta").iterdir() if "counts" in path.name] == ["counts.csv"]


@pytest.mark.parametrize("form", ["mds", "litdata"])
def test_a_shard_becomes_as_many_files_as_their_size_asks_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(offset_files, "FILE_BYTES", 1)
    dataset = open_dataset(tiny)
    for one in export(dataset, form, str(tmp_path), delimiters="eos"):
        blocks = dataset.shards.filter(dataset.shards["source"] == one.source)["blocks"].sum()
        assert len(list((tmp_path / f"dataset={one.source}").iterdir())) == blocks + 1 > 2
        assert READERS[form](tmp_path, one.source) == documents_of(tiny, one.source, [], [EOS])


@pytest.mark.parametrize("form", ["mds", "litdata"])
def test_a_file_that_its_offsets_cannot_address_is_refused_and_no_index_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(offset_files, "MAX_OFFSET", 1000)
    with pytest.raises(UserError, match="more than a file of this format can address: export it --to megatron"):
        export(open_dataset(tiny), form, str(tmp_path), delimiters="eos")
    assert not list(tmp_path.rglob("index.json"))


@pytest.mark.parametrize("form", ["mds", "litdata", "nanoset"])
def test_readers_that_cut_across_documents_are_told_what_goes_between(tiny: Path, tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match=f"--to {form}: say what goes around every document"):
        export(open_dataset(tiny), form, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ids", [255, 256, 65_535, 65_536])
def test_a_sample_of_mds_says_its_length_in_the_narrowest_width(ids: int) -> None:
    (sample,), sizes = samples_of(np.arange(ids, dtype="<u4"), np.array([ids]))
    assert len(sample) == sizes.sum()
    head = bytes(sample[: len(sample) - 4 * ids])
    assert np.frombuffer(sample[len(head) :], "<u4").tolist() == list(range(ids))
    width = 1 << (head[4] & 3)
    assert len(head) == 5 + width
    assert int.from_bytes(head[5:], "little") == ids < 256**width
    assert int.from_bytes(head[:4], "little") == 1 + width + 4 * ids


def test_a_line_says_where_its_document_comes_from(tiny: Path, tmp_path: Path) -> None:
    dataset = open_dataset(tiny)
    export(dataset, "jsonl", str(tmp_path))
    texts = {
        name: [json.loads(line) for line in gzip.decompress((tiny.parent / "inputs" / name).read_bytes()).splitlines()]
        for name in ("0.json.gz", "2.json.gz")
    }
    tokenizer = Tokenizer(dataset.tokenizer_json())
    lines = [line for line in read_jsonl(tmp_path / "dataset=lines") if line["file"] in texts]
    assert len(lines) == sum(map(len, texts.values()))
    for line in lines:
        record = texts[line["file"]][line["row"]]
        assert (line["source"], line["document_id"]) == ("lines", record["id"])
        assert tokenizer.reference.encode([record["text"]]).ids.tolist() == line["tokens"]


def test_ids_of_any_width_are_text_that_json_reads(tmp_path: Path) -> None:
    for vocab_size in (1, 9, 10, 11, 1000, 70_000):
        texts = texts_of(vocab_size)
        ids = [0, vocab_size - 1, vocab_size // 2]
        assert json.loads(f"[{texts.take(ids).tobytes().decode().rstrip()[:-1]}]") == ids


@pytest.mark.parametrize("form", READERS)
def test_what_was_dropped_is_not_exported(tiny_copy: Path, tmp_path: Path, form: str) -> None:
    dataset = open_dataset(tiny_copy)
    first, *others = dataset.shards.filter(dataset.shards["source"] == "rows")["path"]
    table = pq.read_table(tiny_copy / first, partitioning=None)  # a whole shard, and one document of another
    dropped = {*table["document_id"].to_pylist(), pq.read_table(tiny_copy / others[0])["document_id"][1].as_py()}
    (tmp_path / "ids.txt").write_text("\n".join(dropped))
    assert run(app, ["drop", str(tiny_copy), "--list", str(tmp_path / "ids.txt")]) == 0
    export(open_dataset(tiny_copy), "jsonl", str(tmp_path / "lines"), ["rows"])
    left = read_jsonl(tmp_path / "lines" / "dataset=rows")
    assert {line["document_id"] for line in left} & dropped == set()
    whole = documents_of(tiny_copy, "rows", [], [])
    assert len(left) == len(whole) - len(dropped)
    export(open_dataset(tiny_copy), form, str(tmp_path / "out"), ["rows"], "eos")
    found = READERS[form](tmp_path / "out", "rows")
    assert found == [[*line["tokens"], EOS] for line in left]
    assert [document[:-1] for document in found] == [ids for ids in whole if [*ids, EOS] in found]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such form": ({"form": "numpy"}, "--to numpy: it can be megatron, arrow, jsonl, mds, litdata, nanoset"),
    "no such source": ({"sources": ["lines", "nix"]}, "--source nix: .* it has lines, rows"),
    "a source twice": ({"sources": ["lines", "lines"]}, "stands twice"),
    "megatron without a word on delimiters": ({"delimiters": None}, "--delimiters eos is what its trainer expects"),
    "unknown delimiters": ({"delimiters": "sep"}, "'sep'.*eos, bos, both, none"),
    "an id that is not used": ({"eos_id": 5, "delimiters": "none"}, "--eos-id 5 .* delimiters are none"),
    "another id that is not used": ({"bos_id": 5}, "--bos-id 5 .* delimiters are eos: say --delimiters bos"),
    "an id beyond the vocabulary": ({"eos_id": 1 << 20}, "beyond the vocabulary"),
    "no bos in the tokenizer": ({"delimiters": "both"}, "give --bos-id"),
    "an object store": ({"out": "s3://bucket/x"}, "give a folder"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_itself_is_refused_before_anything_is_written(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    asked = {"form": "megatron", "out": str(tmp_path / "out"), "delimiters": "eos", **changes}
    with pytest.raises(UserError, match=said):
        export(open_dataset(tiny), **asked)
    assert not (tmp_path / "out").exists()


def test_a_folder_inside_the_dataset_is_refused(tiny_copy: Path) -> None:
    with pytest.raises(UserError, match="lies in the dataset"):
        export(open_dataset(tiny_copy), "megatron", str(tiny_copy / "out"), delimiters="eos")


def test_a_file_of_somebody_else_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already, and no export of ours"):
        export(open_dataset(tiny), "megatron", str(tmp_path), delimiters="eos")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.bin"]


def test_another_export_in_the_same_folder_is_refused_and_both_are_named(tiny: Path, tmp_path: Path) -> None:
    dataset = open_dataset(tiny)
    export(dataset, "megatron", str(tmp_path), delimiters="eos")
    with pytest.raises(UserError, match=rf"before every document and \[{EOS}\] after.*\[\] and \[\] are asked for"):
        export(dataset, "megatron", str(tmp_path), delimiters="none")
    record = read_record(tmp_path, "lines")
    assert record is not None
    (tmp_path / record.path).write_bytes(replace(record, manifest="f" * 64).sealed())
    with pytest.raises(UserError, match=r"from manifest ffff.* add --version ffffffffffffffff to go on"):
        export(dataset, "megatron", str(tmp_path), delimiters="eos")


def test_a_damaged_record_is_not_believed(tiny: Path, tmp_path: Path) -> None:
    export(open_dataset(tiny), "megatron", str(tmp_path), delimiters="eos")
    path = tmp_path / "meta" / "export-lines.json"
    path.write_bytes(path.read_bytes().replace(b'"finished":true', b'"finished":false'))
    with pytest.raises(CorruptManifest, match=r"damaged, or was edited; remove .* and export again"):
        export(open_dataset(tiny), "megatron", str(tmp_path), delimiters="eos")


def test_two_exports_of_one_source_at_once_do_not_mix(tiny: Path, tmp_path: Path) -> None:
    with held(tmp_path / "meta" / "export-lines.lock"), pytest.raises(Unfinished, match="another export is writing"):
        export(open_dataset(tiny), "megatron", str(tmp_path), delimiters="eos")
    export(open_dataset(tiny), "megatron", str(tmp_path), delimiters="eos")
    assert not list(tmp_path.glob("meta/*.lock"))


def test_a_damaged_shard_ends_the_export_and_nothing_is_called_finished(tiny_copy: Path, tmp_path: Path) -> None:
    dataset = open_dataset(tiny_copy)
    shard = tiny_copy / dataset.shards["path"][0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(BambaError) as raised:
        export(dataset, "megatron", str(tmp_path), delimiters="eos")
    assert raised.value.exit_code == 5
    assert not list(tmp_path.glob("*.bin"))
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    export(dataset, "megatron", str(tmp_path), delimiters="eos")
    assert read_megatron(tmp_path / "lines") == documents_of(tiny_copy, "lines", [], [EOS])


def test_the_command_says_what_was_written(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(tiny), "--to", "megatron", "--out", str(tmp_path), "--delimiters", "eos", "--json"]
    assert run(app, command) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["source"] for one in said] == ["lines", "rows"]
    assert said[0]["results"] == [str(tmp_path / "lines.bin"), str(tmp_path / "lines.idx")]
    assert run(app, command[:-3]) == 2
    assert "--delimiters eos" in capsys.readouterr().err


def killed(url: Path, form: str, folder: Path, step: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.faults.export_crash_points", str(url), form, str(folder), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("form", "step"), [("megatron", 11), ("arrow", 31), ("jsonl", 29), ("mds", 37), ("nanoset", 53)]
)
def test_killed_at_points_all_along_an_export_that_is_run_again_is_the_same(
    tiny: Path, tmp_path: Path, form: str, step: int
) -> None:
    found = killed(tiny, form, tmp_path, step)
    assert found["differs"] == {}
    assert found["tried"] > 3


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", READERS)
def test_killed_at_every_point_an_export_that_is_run_again_is_the_same(tiny: Path, tmp_path: Path, form: str) -> None:
    assert killed(tiny, form, tmp_path, 1)["differs"] == {}
