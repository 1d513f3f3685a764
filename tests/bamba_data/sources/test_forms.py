"""A file of another form is called by its name with the way out; what only looks odd explains records that are bad."""

import contextlib
import io
import json
import tarfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.errors import BambaError, CorruptInput, WrongForm
from bamba_data.sources.compression import HEAD_BYTES
from bamba_data.sources.forms import hint, refuse_other_forms, refuse_other_than_parquet


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jsonl"), io.BytesIO())
    return out.getvalue()


def arrow() -> bytes:
    out = io.BytesIO()
    table = pa.table({"text": ["a"]})
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"PAR1....", WrongForm, "is a parquet file: say `form: parquet`, or leave this one out"),
        (arrow(), WrongForm, "is an Arrow file: write it as parquet"),
        (tar(), WrongForm, "is a tar archive: unpack it"),
        (b"PK\x03\x04....", WrongForm, "is a zip archive: unpack it"),
        (b"\x04\x22\x4d\x18....", WrongForm, "is compressed with lz4, which is not read"),
        ('{"text": "a"}\n'.encode("utf-16"), WrongForm, "is text in UTF-16: convert it: iconv -f UTF-16 -t UTF-8"),
        ('{"text": "a"}\n'.encode("utf-32"), WrongForm, "is text in UTF-32"),
        (b"\n <!DOCTYPE HTML><html>503</html>", CorruptInput, "is a web page: its host answered with that"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied', CorruptInput, "is an error message in XML"),
        (POINTER, CorruptInput, "is a pointer of Git LFS"),
    ],
)
def test_a_file_that_is_certainly_no_json_lines_is_refused_by_name(
    data: bytes, kind: type[BambaError], message: str
) -> None:
    with pytest.raises(kind, match=f"^a.jsonl: {message}"):
        refuse_other_forms(data[:HEAD_BYTES], "a.jsonl")


@pytest.mark.parametrize(
    "data", [b"", b'{"text": "a"}\n', b"[1]\n", b"x,y\n", b"\xff", b"<p>", b"{", b"\xef\xbb\xbf{}\n"]
)
def test_whatever_could_be_json_lines_is_left_to_its_records(data: bytes) -> None:
    refuse_other_forms(data, "a.jsonl")


@given(st.binary(max_size=300) | st.text("[]{}\"',:\n\r\\ ab1", max_size=80).map(str.encode))
@settings(max_examples=500, deadline=None)
def test_no_beginning_of_a_file_breaks_what_looks_at_it(head: bytes) -> None:
    assert isinstance(hint(head), str)
    with contextlib.suppress(CorruptInput, WrongForm):
        refuse_other_forms(head, "a")
    with contextlib.suppress(CorruptInput, WrongForm):
        refuse_other_than_parquet(head, "a")


RECORDS = [{"id": str(n), "text": "it's, so\tto say,"} for n in range(5)]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (json.dumps(RECORDS), "its lines are JSON arrays"),
        (json.dumps(RECORDS, indent=1), "it looks like one JSON array"),
        (json.dumps(RECORDS, indent=1)[:40], "it looks like one JSON array"),
        (f"\ufeff[{json.dumps(RECORDS[0])},\n{json.dumps(RECORDS[1])}]", "it looks like one JSON array"),
        ("\n".join(json.dumps(one, indent=2) for one in RECORDS), "its records go over several lines"),
        ("\r".join(map(json.dumps, RECORDS)), "its lines end with CR alone"),
        ("".join(map(json.dumps, RECORDS)), "its records follow each other without a newline"),
        ("\n".join(map(repr, RECORDS)), "its records are written by Python's repr"),
        ("id,text\n1,hello\n2,there\n", r"it looks like a table of commas \(CSV\)"),
        ("id\ttext\n1\thello\n", r"it looks like a table of tabs \(TSV\)"),
        ("\n".join(map(json.dumps, RECORDS)), ""),
        ("\r\n".join(map(json.dumps, RECORDS)), ""),
        ("", ""),
        ("once upon a time\nthere was", ""),
    ],
)
def test_what_bad_records_look_like_is_said_with_the_way_out(head: str, expected: str) -> None:
    found = hint(head.encode())
    assert found.startswith(expected.replace("\\", ""))
    assert bool(found) == bool(expected)
