"""Text and id come by name from whatever schema a file has; a damaged file is named, and no row is lost in silence."""

import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.errors import CorruptInput, InputChanged, InputTooLarge, WrongForm
from bamba_data.sources.base import TextRule
from bamba_data.sources.parquet import ParquetRows
from tests.bamba_data.memory import grown

URL = "hf://datasets/a/b@c/data/x.parquet"
PATH = "data/x.parquet"


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def read(data: bytes, rule: TextRule | None = None, start_row: int = 0) -> list[Document | Reject]:
    return list(ParquetRows(io.BytesIO(data), rule or TextRule(), PATH, URL).read(start_row))


def rows(table: pa.Table, rule: TextRule | None = None) -> list[tuple[int, str, str]]:
    """(row, id, text) of every document of a file with this table; no reject among them."""
    items = read(written(table), rule)
    assert all(isinstance(item, Document) for item in items), items
    return [item[:3] for item in items]


def not_utf8(*values: bytes | None) -> pa.Array:
    """A string column as a careless writer makes it."""
    return pa.array(values, pa.binary()).view(pa.string())


TEXTS, IDS = ["one", "zwei", "трі"], ["a", "b", "c"]
EXPECTED = [(0, "a", "one"), (1, "b", "zwei"), (2, "c", "трі")]

DRIFTED: dict[str, Callable[[], pa.Table]] = {
    "plain": lambda: pa.table({"text": TEXTS, "id": IDS}),
    "another order": lambda: pa.table({"id": IDS, "dump": [1, 2, 3], "text": TEXTS}),
    "a date too": lambda: pa.table({"text": TEXTS, "date": pa.array([1, 2, 3], pa.timestamp("us")), "id": IDS}),
    "nested columns too": lambda: pa.table({"meta": [{"text": "x", "id": "y"}] * 3, "text": TEXTS, "id": IDS}),
    "large strings": lambda: pa.table(
        {"text": pa.array(TEXTS, pa.large_string()), "id": pa.array(IDS, pa.large_string())}
    ),
    "dictionaries": lambda: pa.table(
        {"text": pa.array(TEXTS).dictionary_encode(), "id": pa.array(IDS).dictionary_encode()}
    ),
    "string views": lambda: pa.table(
        {"text": pa.array(TEXTS, pa.string_view()), "id": pa.array(IDS, pa.string_view())}
    ),
    "binary": lambda: pa.table(
        {"text": pa.array([text.encode() for text in TEXTS]), "id": pa.array([one.encode() for one in IDS])}
    ),
}


@pytest.mark.parametrize("table", DRIFTED.values(), ids=DRIFTED)
def test_text_and_id_are_found_by_name_in_every_schema(table: Callable[[], pa.Table]) -> None:
    assert rows(table()) == EXPECTED


def test_files_that_polars_wrote_are_read(tmp_path: Path) -> None:
    pl.DataFrame({"id": IDS, "text": TEXTS}).write_parquet(tmp_path / "x.parquet")
    assert [item[:3] for item in read((tmp_path / "x.parquet").read_bytes())] == EXPECTED


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_compression_and_page_version_is_read(compression: str, version: str) -> None:
    data = written(pa.table({"text": TEXTS, "id": IDS}), compression=compression, data_page_version=version)
    assert [item[:3] for item in read(data)] == EXPECTED


def test_only_the_columns_that_are_needed_are_read() -> None:
    noise = random.Random(0).randbytes(1 << 20)
    data = written(pa.table({"text": ["t"], "prompt": [noise], "id": ["a"]}), use_dictionary=False)
    file = CountingFile(data)
    list(ParquetRows(file, TextRule(), PATH, URL).read())
    assert file.bytes_read < 1 << 17


class CountingFile(io.BytesIO):
    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_several_text_columns_are_joined_in_the_order_of_the_rule() -> None:
    table = pa.table({"text": ["t"], "prompt": pa.array(["p"], pa.large_string())})
    assert rows(table, TextRule(fields=["prompt", "text"], join="\n\n", id_field=None)) == [(0, f"{PATH}#0", "p\n\nt")]


def test_a_file_without_an_id_column_has_its_ids_made_and_noted() -> None:
    items = read(written(pa.table({"text": TEXTS})))
    assert items[1] == Document(1, f"{PATH}#1", "zwei", notes=("id_made",))


def test_a_rule_without_an_id_field_makes_ids_and_notes_nothing() -> None:
    items = read(written(pa.table({"text": TEXTS, "id": IDS})), TextRule(id_field=None))
    assert items[1] == Document(1, f"{PATH}#1", "zwei")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (lambda: pa.array([7, -1]), [("7", ("id_not_string",)), ("-1", ("id_not_string",))]),
        (lambda: pa.array([2**64 - 1, None], pa.uint64()), [(str(2**64 - 1), ("id_not_string",)), "made"]),
        (lambda: pa.array(["x", None]), [("x", ()), "made"]),
        (lambda: not_utf8(b"\xff", b"ok"), ["made", ("ok", ())]),
        (lambda: pa.array([True, True]), ["made", "made"]),
        (lambda: pa.array([1.5, 2.5]), ["made", "made"]),
        (lambda: pa.array([[1], [2]]), ["made", "made"]),
        (lambda: pa.array([{"a": 1}, {"a": 2}]), ["made", "made"]),
        (lambda: pa.array([2**30, 1], pa.date32()), ["made", "made"]),
    ],
    ids=["int", "uint64", "null", "not utf-8", "bool", "float", "list", "struct", "date"],
)
def test_ids_of_other_types_are_tolerated_and_noted(column: Callable[[], pa.Array], expected: list[Any]) -> None:
    items = read(written(pa.table({"text": ["a", "b"], "id": column()})))
    made = [(f"{PATH}#{row}", ("id_made",)) for row in range(2)]
    assert [(item.id, item.notes) for item in items if isinstance(item, Document)] == [
        made[row] if one == "made" else one for row, one in enumerate(expected)
    ]


def test_a_null_text_is_a_reject_at_its_row() -> None:
    items = read(written(pa.table({"text": ["a", None, "b"]})))
    assert [(item.row, getattr(item, "reason", "")) for item in items] == [(0, ""), (1, "missing_text"), (2, "")]


@pytest.mark.parametrize("kind", ["string", "dictionary"])
def test_a_text_that_is_not_utf8_is_a_reject_with_its_bytes_and_harms_no_other(kind: str) -> None:
    column = not_utf8(b"ok", b"caf\xe9 noir", b"fine")
    items = read(written(pa.table({"text": column if kind == "string" else column.dictionary_encode()})))
    reject = items[1]
    assert isinstance(reject, Reject)
    assert [items[0].row, reject[:5], items[2].row] == [
        0,
        (1, "bad_utf8", "invalid continuation byte at byte 3 of 'text'", b"caf\xe9 noir", 9),
        2,
    ]


def test_an_encoded_surrogate_is_not_utf8() -> None:
    (item,) = read(written(pa.table({"text": not_utf8(b"\xed\xa0\x80")})))
    assert isinstance(item, Reject)
    assert item.reason == "bad_utf8"


def test_the_raw_bytes_of_a_huge_reject_are_cut_but_its_length_is_whole() -> None:
    (item,) = read(written(pa.table({"text": not_utf8(b"\xff" * (RAW_BYTES + 10))})))
    assert isinstance(item, Reject)
    assert (len(item.raw), item.raw_bytes) == (RAW_BYTES, RAW_BYTES + 10)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            lambda: pa.table({"txt": TEXTS, "n": [1, 2, 3], "m": [{"t": "x", "k": 1}] * 3}),
            r"has no column 'text': its text columns are \['txt', 'm.t'\] of \['txt', 'n', 'm'\]: name one with",
        ),
        (lambda: pa.table({"text": [1, 2]}), "column 'text' is int64, not text"),
        (lambda: pa.table({"text": [["a"], ["b"]]}), "column 'text' is list<.*>, not text"),
        (lambda: pa.table({"text": [{"a": "b"}]}), "column 'text' is struct<.*>, not text"),
        (lambda: pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text"] * 2), "has two columns 'text'"),
    ],
    ids=["missing", "int", "list", "struct", "twice"],
)
def test_a_file_without_its_text_column_is_the_wrong_file(table: Callable[[], pa.Table], message: str) -> None:
    with pytest.raises(WrongForm, match=message) as caught:
        read(written(table()))
    assert caught.value.url == URL


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n' * 99, "looks like JSON: say `form: jsonl`"),
        (b"[1, 2, 3]" * 99, "looks like JSON: say `form: jsonl`"),
        (gzip.compress(b'{"text": "a"}\n' * 99), "is compressed with gzip: parquet is read at random: unpack it"),
        (b"PK\3\4" + bytes(200), "is a zip archive: unpack it"),
    ],
)
def test_a_file_of_another_form_is_called_by_its_name(data: bytes, message: str) -> None:
    with pytest.raises(WrongForm, match=message):
        read(data)


def test_a_text_column_of_the_type_null_is_text_that_every_row_lacks() -> None:
    items = read(written(pa.table({"text": pa.nulls(3), "id": IDS})))
    assert [(item.row, item.reason) for item in items if isinstance(item, Reject)] == [
        (row, "missing_text") for row in range(3)
    ]


NESTED = {"m": [{"text": "one", "k": {"id": "a"}}, None, {"text": None, "k": None}, {"text": "four", "k": {"id": "d"}}]}


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_name_with_dots_is_a_field_of_a_struct(text: pa.DataType) -> None:
    kind = pa.struct({"text": text, "k": pa.struct({"id": pa.string()}), "more": pa.int64()})
    items = read(written(pa.table({"m": pa.array(NESTED["m"], kind)})), TextRule(fields=["m.text"], id_field="m.k.id"))
    assert [getattr(item, "text", None) for item in items] == ["one", None, None, "four"]
    assert [getattr(item, "id", None) for item in items] == ["a", None, None, "d"]


def test_a_column_of_the_very_name_goes_before_a_field_of_a_struct() -> None:
    table = pa.table({"a.b": ["literal"], "a": [{"b": "nested"}]})
    assert rows(table, TextRule(fields=["a.b"], id_field=None)) == [(0, f"{PATH}#0", "literal")]


def test_of_several_names_the_first_that_is_not_null_is_the_text_and_another_than_the_first_is_noted() -> None:
    table = pa.table({"content": ["c0", None, None], "m": [{"text": "m0"}, {"text": "m1"}, None]})
    rule = TextRule(text_field=["text", "content", "m.text"], id_field=None)
    items = read(written(table), rule)
    assert [(getattr(item, "text", None), getattr(item, "notes", None)) for item in items] == [
        ("c0", ()),
        ("m1", ("text_in:m.text",)),
        (None, None),
    ]
    assert isinstance(items[2], Reject)
    assert items[2].detail == "'content' and 'm.text' are null"


def test_a_file_that_has_none_of_several_names_is_the_wrong_file() -> None:
    with pytest.raises(WrongForm, match="has no column 'text' or 'content'"):
        read(written(pa.table({"body": TEXTS})), TextRule(text_field=["text", "content"]))


def many(count: int = 57, **options: Any) -> bytes:
    table = pa.table({"text": [f"text {n}" for n in range(count)], "id": [f"id {n}" for n in range(count)]})
    return written(table, row_group_size=10, **options)


WHOLE = read(many())


@pytest.mark.parametrize("start_row", range(60))
def test_reading_from_any_row_gives_what_comes_after_it(start_row: int) -> None:
    assert read(many(), start_row=start_row) == WHOLE[start_row:]


@given(
    groups=st.lists(st.lists(st.text("ab", max_size=3) | st.none(), min_size=1, max_size=9), min_size=1, max_size=5),
    batch_rows=st.integers(1, 8),
    start_row=st.integers(0, 50),
)
@settings(max_examples=100, deadline=None)
def test_every_row_comes_once_in_order_whatever_the_row_groups_and_batches(
    groups: list[list[str | None]], batch_rows: int, start_row: int
) -> None:
    file = io.BytesIO()
    with pq.ParquetWriter(file, pa.schema({"text": pa.string()})) as writer:
        for group in groups:
            writer.write_table(pa.table({"text": pa.array(group, pa.string())}))
    texts = [text for group in groups for text in group]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bamba_data.sources.parquet.MAX_BATCH_ROWS", batch_rows)
        found = read(file.getvalue(), start_row=start_row)
    assert [(item.row, getattr(item, "text", None)) for item in found] == list(enumerate(texts))[start_row:]


def test_a_file_without_rows_is_read_to_its_end() -> None:
    assert read(written(pa.table({"text": pa.array([], pa.string())}))) == []


def test_a_file_truncated_at_any_byte_is_named() -> None:
    data = many()
    for length in range(len(data)):
        with pytest.raises(CorruptInput) as caught:
            read(data[:length])
        assert caught.value.url == URL


def test_a_missing_row_group_is_an_error_and_not_a_shorter_file() -> None:
    """The footer is not covered by checksums: what it says in two places must agree."""
    data, shorter = many(30), bytearray(many(30))
    at = data.rindex(b"\x16\x3c")  # field of type i64, zigzag 30: the number of rows in the file
    shorter[at + 1] = 20 << 1
    with pytest.raises(CorruptInput, match="its row groups have 30 rows, its footer says 20"):
        read(bytes(shorter))


FLIPS = """
import io, sys
from pathlib import Path
from bamba_data.errors import CorruptInput, WrongForm
from bamba_data.sources.base import TextRule
from bamba_data.sources.parquet import ParquetRows
data = Path(sys.argv[1]).read_bytes()
counts = {"corrupt": 0, "whole": 0}
for bit in range(0, 8 * len(data), 3):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        rows = sum(1 for _ in ParquetRows(io.BytesIO(damaged), TextRule(), "p", "u").read())
        assert rows == 25, (bit, rows)
        counts["whole"] += 1
    except (CorruptInput, WrongForm):  # a footer that names other columns is no less sound for it
        counts["corrupt"] += 1
done(counts, peak())
"""


def test_no_flipped_bit_kills_the_process_or_loses_a_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(many(25, compression="zstd", write_page_index=True))
    counts, _ = grown(FLIPS, path)
    assert counts["corrupt"] > counts["whole"] > 0


def test_with_page_checksums_no_flipped_bit_of_a_page_passes() -> None:
    data = many(10, compression="none", use_dictionary=False, write_page_checksum=True)
    at = data.index(b"\6\0\0\0text 0")
    for byte in range(at, at + 80):
        damaged = bytearray(data)
        damaged[byte] ^= 1
        with pytest.raises(CorruptInput, match="damaged parquet"):
            read(bytes(damaged))


def test_an_error_of_ours_passes_through_arrow_unchanged() -> None:
    class Changing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() < 4096:
                raise InputChanged(URL, "etag", "old", "new")
            return super().read(size)

    data = written(pa.table({"text": [random.Random(n).randbytes(99).hex() for n in range(999)]}), compression="none")
    with pytest.raises(InputChanged):
        list(ParquetRows(Changing(data), TextRule(), PATH, URL).read())


READ_ALL = """
from bamba_data.sources.base import TextRule
from bamba_data.sources.parquet import ParquetRows
with open(sys.argv[1], "rb") as file:
    rows, before = ParquetRows(file, TextRule(), "p", "u"), peak()
    done(sum(len(item.text) for item in rows.read(max_ratio=10**9)), before)
"""


def test_memory_stays_small_where_a_dictionary_says_one_long_text_for_every_row(tmp_path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["a" * 100_000]))
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": texts}), path, store_schema=False)
    chars, size_bytes = grown(READ_ALL, path)
    assert (chars, size_bytes < 192 << 20) == (400_000_000, True)


def test_memory_does_not_depend_on_the_size_of_a_row_group(tmp_path: Path) -> None:
    texts = [random.Random(n).randbytes(2000).hex() for n in range(20_000)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=20_000, use_dictionary=False)
    _, size_bytes = grown(READ_ALL, path)
    assert size_bytes < 48 << 20


def test_a_dictionary_bomb_is_named_before_it_is_held() -> None:
    """One text of a megabyte, said by 3,000 rows: three gigabytes in a few kilobytes."""
    said = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["bomb " * 200_000]))
    data = written(pa.table({"text": said}), dictionary_pagesize_limit=1 << 30)
    assert len(data) < 100_000
    with pytest.raises(InputTooLarge, match="expands more than 200 times"):
        read(data)
