"""`verify` names every fault: what is missing, swapped, cut, flipped, or written to deceive with all digests right."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect import shard_rows
from bamba_data.inspect.verify import verify
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from tests.building import build
from tests.corpora import lines, recipe, records, write_jsonl
from tests.forging import Forger, many_shards


def faults(root: Path, full: bool = True) -> dict[str, str]:
    """What a report says, by place."""
    found: dict[str, str] = {}
    for fault in verify(str(root), full=full).faults:
        found[fault.where] = f"{found[fault.where]}; {fault.detail}" if fault.where in found else fault.detail
    return found


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


# -- sound


@pytest.mark.parametrize("full", [False, True])
def test_a_sound_dataset_has_no_faults_and_is_counted(tiny: Path, full: bool) -> None:
    ticks: list[tuple[int, int]] = []
    report = verify(str(tiny), full=full, tick=lambda done, total: ticks.append((done, total)))
    assert report.faults == []
    assert (report.shards, report.blocks, report.documents, report.tokens) == (9, 17, 62, 12_853)
    assert report.reencoded == (9 if full else 0)
    assert report.dataset == open_dataset(str(tiny)).manifest.digest
    assert ticks == [(n, 9) for n in range(1, 10)]
    footers = int(open_dataset(str(tiny)).shards["footer_bytes"].sum())
    stored = sum(path.stat().st_size for path in tiny.glob("dataset=*/*"))
    letters = sum(path.stat().st_size for path in tiny.glob("_bamba/dead_letters/*/*"))
    assert report.bytes_read == (stored + letters if full else footers)


@pytest.mark.s3
def test_a_dataset_on_s3_is_verified_alike(tiny: Path, bucket: str) -> None:
    store = open_store(bucket)
    for path in tiny.rglob("*.*"):
        if path.is_file():
            store.put(path.relative_to(tiny).as_posix(), path.read_bytes())
    for full in (False, True):
        assert verify(bucket, full=full).faults == []
    gone, cut = list(open_dataset(bucket).shards["path"][:2])
    store.delete(gone)
    store.put(cut, store.read(cut)[:-1])
    for full in (False, True):
        assert {fault.where for fault in verify(bucket, full=full).faults} == {gone, cut}


def test_without_bodies_no_body_is_read(tiny_copy: Path, demo: Path, tmp_path: Path) -> None:
    """All but the footers is wiped out: metadata alone are still sound, and in full every shard is named."""
    root = Path(shutil.copytree(demo, tmp_path / "demo"))
    shards = sorted(root.glob("dataset=*/*"))
    for path in shards:
        data = path.read_bytes()
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        path.write_bytes(bytes(footer) + data[footer:])
    report = verify(str(root))
    assert report.faults == []
    footers = int(open_dataset(str(root)).shards["footer_bytes"].sum())
    assert report.bytes_read == footers < sum(path.stat().st_size for path in shards)
    assert {path.relative_to(root).as_posix() for path in shards} <= set(faults(root))


# -- damaged


@pytest.mark.parametrize("full", [False, True])
def test_a_missing_shard_is_named(tiny_copy: Path, full: bool) -> None:
    path = Forger(tiny_copy).shard_path(3)
    path.unlink()
    assert faults(tiny_copy, full) == {path.relative_to(tiny_copy).as_posix(): "is missing"}


@pytest.mark.parametrize("full", [False, True])
def test_an_extra_shard_is_no_fault_but_counted(tiny_copy: Path, full: bool) -> None:
    """It may belong to another version; to find those that belong to none is for `sweep`."""
    extra = Forger(tiny_copy).shard_path(0)
    shutil.copy(extra, extra.with_name("00009-000-0123456789abcdef.parquet"))
    report = verify(str(tiny_copy), full=full)
    assert (report.faults, report.unlisted) == ([], 1)


def test_two_shards_of_one_size_that_were_swapped_are_both_named(tmp_path: Path, certificate: Certificate) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"inputs/{name}.json.gz", [{**r, "id": f"{name}{r['id']}"} for r in records(6)])
    build(tmp_path / "out", certificate, str(recipe(tmp_path, extra="unit_bytes: 1")))
    forger = Forger(tmp_path / "out")
    one, other = forger.shard_path(0), forger.shard_path(len(forger.shards) // 2)
    data = one.read_bytes(), other.read_bytes()
    assert len(data[0]) == len(data[1]) and data[0] != data[1]
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    found = faults(tmp_path / "out")
    assert set(found) == {path.relative_to(tmp_path / "out").as_posix() for path in (one, other)}
    assert all(detail.startswith("its sha256 is not the manifest's") for detail in found.values())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_shard_is_named_with_its_size(tiny_copy: Path, full: bool, keep: int) -> None:
    path = Forger(tiny_copy).shard_path(1)
    data = path.read_bytes()[:keep] if keep else b""
    path.write_bytes(data)
    assert faults(tiny_copy, full) == {
        path.relative_to(tiny_copy).as_posix(): f"has {len(data):,} bytes, the manifest says 2,828"
    }


@pytest.mark.parametrize("rounds", [4, pytest.param(400, marks=pytest.mark.long)])
def test_in_full_every_flipped_bit_of_every_shard_is_found(tiny_copy: Path, rounds: int) -> None:
    """One bit in each of 125 shards at once, somewhere else every time."""
    many_shards(tiny_copy, 125, shutil.copy)
    assert faults(tiny_copy) == {}
    paths = [Path(url) for url in open_dataset(str(tiny_copy)).shard_urls()]
    whole = paths[0].read_bytes()
    dice = random.Random(3)
    for _ in range(rounds):
        bits = [dice.randrange(8 * len(whole)) for _ in paths]
        for path, bit in zip(paths, bits, strict=True):
            flip(path, bit)
        assert set(faults(tiny_copy)) == {path.relative_to(tiny_copy).as_posix() for path in paths}, bits
        for path in paths:
            path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["tables", "locks", "tokenizers"])
def test_a_flipped_bit_in_a_table_a_lock_or_the_tokenizer_is_named(tiny_copy: Path, kind: str) -> None:
    for path in sorted((tiny_copy / "_bamba" / kind).glob("*.[jp][sa]*")):
        whole = path.read_bytes()
        for bit in (0, 4 * len(whole)):
            flip(path, bit)
            found = faults(tiny_copy, full=False)
            assert len(found) == 1 and path.name in str(found), bit
            assert "does not have the sha256 that names it" in str(found)
            path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["tables", "locks", "tokenizers"])
def test_a_missing_table_lock_or_tokenizer_is_named(tiny_copy: Path, kind: str) -> None:
    for path in sorted((tiny_copy / "_bamba" / kind).glob("*.[jp][sa]*")):
        whole = path.read_bytes()
        path.unlink()
        found = faults(tiny_copy, full=False)
        assert len(found) == 1 and path.name in str(found) and "is missing" in str(found)
        path.write_bytes(whole)


def test_faults_of_two_tables_and_the_tokenizer_are_all_named(tiny_copy: Path) -> None:
    for path in (tiny_copy / "_bamba/tables").iterdir():
        flip(path, 100)
    flip(next((tiny_copy / "_bamba/tokenizers").iterdir()), 100)
    assert len(faults(tiny_copy)) == 6


def test_a_flipped_bit_of_a_dead_letter_file_is_found_in_full(tiny_copy: Path) -> None:
    (path,) = tiny_copy.glob("_bamba/dead_letters/*/*")
    flip(path, 4000)
    assert faults(tiny_copy, full=False) == {}
    assert faults(tiny_copy) == {path.relative_to(tiny_copy).as_posix(): "its sha256 is not the manifest's"}


def test_a_flipped_bit_in_manifest_or_version_cannot_be_opened(tiny_copy: Path) -> None:
    for kind in ("manifests", "versions"):
        (path,) = (tiny_copy / "_bamba" / kind).iterdir()
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 101):
            flip(path, bit)
            with pytest.raises(CorruptManifest, match=path.name):
                verify(str(tiny_copy))
            path.write_bytes(whole)


# -- forged: all digests are right


def test_a_forger_who_changes_nothing_is_not_found(tiny_copy: Path) -> None:
    """So that what the tests below find is what they changed."""
    forger = Forger(tiny_copy)
    forger.rewrite_shard(0, lambda table: table)
    forger.save()
    assert faults(tiny_copy) == {}


Change = Callable[[Forger], object]


def change(table: str, row: int, **fields: object) -> Change:
    return lambda forger: forger.tables[table][row].update(fields)


def move_tokens(forger: Forger) -> None:
    """From one block of a shard to the other: all sums stay."""
    forger.blocks[0]["tokens"] -= 1
    forger.blocks[1]["tokens"] += 1


def move_documents(forger: Forger) -> None:
    forger.blocks[0]["documents"] -= 1
    forger.blocks[1]["documents"] += 1


def swap_blocks(forger: Forger) -> None:
    forger.blocks[0], forger.blocks[1] = forger.blocks[1], forger.blocks[0]


def unbalance(forger: Forger) -> None:
    forger.tables["files"][0]["dropped"] += 1


def forget_a_letter(forger: Forger) -> None:
    forger.tables["dead_letters"][0]["records"] = 1


@pytest.mark.parametrize(
    ("edit", "where", "says"),
    [
        (change("blocks", 0, offset=5), "dataset=lines/", "row groups are not the blocks"),
        (change("blocks", 0, size_bytes=7), "dataset=lines/", "row groups are not the blocks"),
        (move_documents, "dataset=lines/", "row groups are not the blocks"),
        (swap_blocks, "table blocks", "not in the order"),
        (change("blocks", 1, block=7), "table blocks", "not in the order"),
        (change("blocks", 2, source="rows"), "source lines", "its blocks sum to"),
        (change("blocks", 0, tokens=1), "dataset=lines/", "tables of shards and blocks disagree"),
        (change("shards", 1, documents=5), "source lines", "documents of its shards sum to 43, the manifest says 42"),
        (change("shards", 1, tokens=0), "source lines", "tokens of its shards"),
        (change("shards", 1, blocks=9), "source lines", "blocks of its shards"),
        (change("shards", 1, size_bytes=9), "dataset=lines/", "has 2,828 bytes, the manifest says 9"),
        (change("shards", 1, source="rows"), "table shards", "outside the folder of its source"),
        (change("files", 0, kept=13, dropped=1), "source lines", "kept of its inputs sum to 41"),
        (change("files", 0, tokens=1), "source lines", "tokens of its inputs"),
        (change("files", 0, text_bytes=1), "source lines", "text_bytes of its inputs"),
        (change("files", 0, quarantined=True), "source lines", "quarantined of its inputs sum to 1"),
        (change("files", 1, file=0), "table files", "two inputs of a source have one number"),
        (unbalance, "input lines/0.json.gz", "its account does not balance"),
        (forget_a_letter, "source lines", "records of its dead letters sum to 1, the manifest says 2"),
    ],
)
def test_a_table_that_lies_is_found_without_bodies(tiny_copy: Path, edit: Change, where: str, says: str) -> None:
    forger = Forger(tiny_copy)
    edit(forger)
    forger.save()
    found = faults(tiny_copy, full=False)
    assert any(place.startswith(where) and says in detail for place, detail in found.items()), found


def edit_tokens(edit: Callable[[list[Any]], object]) -> Callable[[pa.Table], pa.Table]:
    """A shard whose documents' ids were changed by `edit`, their counts as before."""

    def change(table: pa.Table) -> pa.Table:
        ids = [np.frombuffer(tokens, "<u2").copy() for tokens in table["tokens"].to_pylist()]
        edit(ids)
        return table.set_column(0, table.schema.field(0), pa.array([one.tobytes() for one in ids], pa.binary()))

    return change


def set_id(ids: list[Any]) -> None:
    ids[-1][-1] = 50_280


def shuffle_first(ids: list[Any]) -> None:
    np.random.default_rng(0).shuffle(ids[0])


def cut_one(ids: list[Any]) -> None:
    ids[2] = ids[2][:-1]


def set_column(name: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        values = table[name].to_pylist()
        values[row] = value
        return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))

    return change


@pytest.mark.parametrize(
    ("edit", "where", "says"),
    [
        (edit_tokens(set_id), "dataset=lines/", "id 50280 is beyond the vocabulary of 50280"),
        (edit_tokens(shuffle_first), "dataset=lines/", "encoded again, gives other ids"),
        (edit_tokens(cut_one), "dataset=lines/", "token_count is not the length of tokens"),
        (set_column("token_count", 1, 3), "dataset=lines/", "token_count is not the length of tokens"),
        (set_column("file", 0, 2), "input lines/0.json.gz", "13 documents in shards, kept 14"),
        (set_column("file", 0, 99), "input lines/0.json.gz", "13 documents in shards, kept 14"),
    ],
)
def test_a_shard_that_lies_is_found_in_full(
    tiny_copy: Path, edit: Callable[[pa.Table], pa.Table], where: str, says: str
) -> None:
    forger = Forger(tiny_copy)
    forger.rewrite_shard(0, edit)
    forger.save()
    assert faults(tiny_copy, full=False) == {}
    found = faults(tiny_copy)
    assert any(place.startswith(where) and says in detail for place, detail in found.items()), found


def test_a_block_that_lies_about_its_tokens_is_found_in_full(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    move_tokens(forger)
    forger.save()
    assert "block 0: documents or tokens are not the manifest's" in str(faults(tiny_copy))


def test_a_block_digest_that_lies_is_found_in_full(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    forger.blocks[5]["digest"] = bytes(16)
    forger.save()
    assert f"do not have the digest {'0' * 32}" in str(faults(tiny_copy))


def test_another_tokenizer_under_the_right_name_is_found(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    forger.manifest["tokenizer"]["vocab_size"] = 50_281
    forger.save()
    assert faults(tiny_copy, full=False) == {"tokenizer": "has 50,280 ids, the manifest says 50,281"}


def test_a_shard_of_foreign_parquet_is_found(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    forger.rewrite_shard(0, lambda table: table.replace_schema_metadata(None))
    forger.save()
    assert "its columns or metadata are not those of a shard" in str(faults(tiny_copy))


# -- other versions, many shards


def test_every_version_is_verified_by_itself(tiny_copy: Path, certificate: Certificate) -> None:
    folder = tiny_copy.parent
    write_jsonl(folder / "inputs/3.json.gz", lines(records(5, 500)))
    (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text().replace("*.json.gz", "3.json.gz"))
    build(tiny_copy, certificate, str(folder / "tiny.yaml"))
    first, second = (verify(str(tiny_copy), number, full=True) for number in (1, 2))
    assert first.faults == second.faults == []
    assert (first.shards, first.unlisted) == (9, second.shards - 3)  # three of `rows` are the same in both
    assert verify(str(tiny_copy)).version == 2


def test_many_shards_are_all_checked_without_bodies(tiny_copy: Path) -> None:
    many_shards(tiny_copy, 500)
    report = verify(str(tiny_copy))
    assert report.faults == []
    assert (report.shards, report.blocks) == (500, 1000)


def test_however_shards_are_sliced_all_are_looked_at_with_what_is_theirs(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verify(str(tiny), full=True)
    for size in (1, 2, 5):
        monkeypatch.setattr(shard_rows, "SLICE_SHARDS", size)
        assert verify(str(tiny), full=True) == whole
