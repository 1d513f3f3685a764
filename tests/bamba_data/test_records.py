"""A sealed record is read back as it was written, or refused."""

import subprocess
import sys
from typing import Any

import pytest

from bamba_data import canonical_json
from bamba_data.document import Ledger
from bamba_data.errors import CorruptManifest, UnsafePath
from bamba_data.format.holdout_candidates import Candidate
from bamba_data.format.shard import Block, Footer
from bamba_data.format.unit_records import MadeBy, Part, Place, ReadInput, Sampled, StagedShard, UnitRecord
from bamba_data.format.versions import Version
from bamba_data.records import seal, unseal
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate

FIELDS = {"format": "bamba-test/1", "key": "é", "counts": {"a": 1, "b": [1, 2.5, None, True]}}
DATA = seal(FIELDS)


def test_what_was_sealed_is_read_back_without_its_seal() -> None:
    assert unseal(DATA, "here", 1 << 10) == FIELDS


@pytest.mark.parametrize("at", range(len(DATA)))
def test_any_flipped_bit_is_refused(at: int) -> None:
    for bit in range(8):
        flipped = bytearray(DATA)
        flipped[at] ^= 1 << bit
        with pytest.raises(CorruptManifest, match="here"):
            unseal(bytes(flipped), "here", 1 << 10)


@pytest.mark.parametrize(
    "data", [b"", DATA[:-1], DATA[: len(DATA) // 2], DATA + b"\n", b"[]\n", canonical_json.dumps(FIELDS)]
)
def test_what_is_torn_or_without_a_seal_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptManifest, match="here"):
        unseal(data, "here", 1 << 10)


def test_a_record_cannot_bring_a_seal_of_its_own() -> None:
    with pytest.raises(ValueError, match="sha256"):
        seal({"sha256": "0" * 64})


def unit_record(path: str = "dataset=books/00000-000-0123.parquet") -> UnitRecord:
    shard = StagedShard(
        path=path,
        sha256="0" * 64,
        size_bytes=10,
        documents=3,
        tokens=7,
        blocks=[Block(2, 4, 4, 3, "aa", "bb"), Block(1, 3, 7, 3, "cc", "dd")],
        candidates=[Candidate(0, 1, 2, 2**53 + 1)],
        footer=Footer(3, "ee"),
    )
    part = Part(
        number=0,
        end=Place(1, 0, ""),
        backend="tokenizers",
        shard=shard,
        letters=None,
        ledgers={0: Ledger(read=3, kept=3, tokens=7, text_bytes=20)},
        inputs=[ReadInput(0, None, 8, complete=False)],
        sampled=Sampled(1, 2),
        made_by=MadeBy({"pyarrow": "1"}, Certificate("tokenizers", "1", "1", "0" * 64, 1, 2, round_trips=True)),
    )
    return UnitRecord("books", "k", [part])


def test_a_unit_s_record_is_read_back_as_it_was(tmp_path: Any) -> None:
    store = open_store(tmp_path)
    store.put("r", unit_record().sealed())
    assert UnitRecord.read_of(store, "r", "books", "k") == unit_record()
    with pytest.raises(CorruptManifest, match="record of books/k, not of books/other"):
        UnitRecord.read_of(store, "r", "books", "other")


def test_a_unit_s_record_that_names_a_file_elsewhere_is_refused(tmp_path: Any) -> None:
    store = open_store(tmp_path)
    store.put("r", unit_record("../elsewhere").sealed())
    with pytest.raises(UnsafePath):
        UnitRecord.read_of(store, "r", "books", "k")


VERSION = Version(3, "0" * 64, "b", "1" * 64, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"format": "bamba-version/2"}, "is of format 'bamba-version/2', not 'bamba-version/1'"),
        ({"later": 1}, "has fields that bamba-version/1 does not have"),
        ({"manifest": "0" * 63}, "manifest"),
        ({"manifest": "0" * 64 + "\n"}, "manifest"),
        ({"version": "3"}, "number"),
        ({"build": None}, "build"),
    ],
)
def test_a_record_of_another_form_is_refused(change: dict[str, Any], detail: str) -> None:
    fields = {"format": Version.FORMAT, **VERSION.fields()}
    assert Version.parse(seal(fields), "here") == VERSION
    with pytest.raises(CorruptManifest, match=f"here: .*{detail}"):
        Version.parse(seal({**fields, **change}), "here")


#: Eight threads at a class that nobody has met, again and again; a switch between threads after every step.
MET_AT_ONCE = """
import dataclasses, sys, threading
from bamba_data.records import converted
sys.setswitchinterval(1e-7)
for _ in range(60):
    names = [f"f{number}" for number in range(12)]
    inner = dataclasses.make_dataclass("Inner", [(name, int) for name in names])
    outer = dataclasses.make_dataclass("Outer", [("one", inner), ("many", list[inner])])
    fields = dict.fromkeys(names, 1)
    together, found = threading.Barrier(8), []

    def meet():
        together.wait()
        found.append(converted({"one": fields, "many": [fields]}, outer))

    threads = [threading.Thread(target=meet) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 8 and all(one == found[0] for one in found)
"""


def test_threads_that_meet_a_kind_of_record_at_once_all_read_it() -> None:
    """By msgspec 0.22 alone the process ends by a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", MET_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
