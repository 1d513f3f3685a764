"""Each line is a document or a reject with its reason; what stands beside the text and the id may be anything."""

import gzip
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.document import RAW_BYTES, REASONS, Document, Reject
from bamba_data.sources.base import TextRule
from bamba_data.sources.decompress import inflate
from bamba_data.sources.jsonl import parser
from bamba_data.sources.lines import read_lines

PATH = "books/books-0000.json.gz"
MAX_LINE_BYTES = 1 << 21


def read(data: bytes, rule: TextRule | None = None, max_line_bytes: int = MAX_LINE_BYTES) -> list[Document | Reject]:
    parse = parser(rule or TextRule(), PATH, max_line_bytes)
    return [parse(line) for line in read_lines([data], max_line_bytes)]


def one(data: bytes, rule: TextRule | None = None) -> Document | Reject:
    (item,) = read(data, rule)
    return item


def document(data: bytes, rule: TextRule | None = None) -> Document:
    item = one(data, rule)
    assert isinstance(item, Document), item
    return item


def reason(data: bytes, rule: TextRule | None = None) -> str:
    item = one(data, rule)
    assert isinstance(item, Reject), item
    return item.reason


def test_a_record_gives_its_row_its_id_its_text_and_its_raw_line() -> None:
    line = b'{"id": "a", "text": "t", "source": "wiki", "added": "2024", "metadata": {"n": [1, 2.5, null]}}'
    assert read(b"\n" + line + b"\r\n") == [Document(1, "a", "t", line + b"\r")]


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    found_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    metadata=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    escaped=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_as_it_was_whatever_stands_beside_it(
    text: str, found_id: str, metadata: object, escaped: bool
) -> None:
    record = {"metadata": metadata, "text": text, "id": found_id, "more": metadata}
    line = json.dumps(record, ensure_ascii=escaped).encode(errors="surrogatepass")
    assert (document(line).text, document(line).id) == (text, found_id)


BAD = {
    b'{"id": "a", "text": "t"': "bad_json",
    b'{"id": "a", "text": "t"} x': "bad_json",
    b'{"id": "a", "text": "t"}{"id": "b", "text": "t"}': "bad_json",
    b"{'id': 'a', 'text': 't'}": "bad_json",
    b'{"id": "a", "text": "a\tb"}': "bad_json",
    b'{"id": "a", "text": "a\x00b"}': "bad_json",
    b'{"id": "a", "text": "t", "m": True}': "bad_json",
    b"[" * 100_000: "bad_json",
    b'{"id": "a", "text": "t", "m": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "bad_json",
    b'{"text": "t", "id": ' + b"1" * 5000 + b"}": "bad_json",
    b"\xff\xfe": "bad_utf8",
    b'{"id": "a", "text": "\xff"}': "bad_utf8",
    b'{"id": "a", "text": "\xc3"}': "bad_utf8",
    b'{"id": "\xff", "text": "t"}': "bad_utf8",
    '{"id": "a", "text": "t"}'.encode("utf-16"): "bad_utf8",
    b"[1]": "not_an_object",
    b'"text"': "not_an_object",
    b"5": "not_an_object",
    b"null": "not_an_object",
    b"{}": "missing_text",
    b'{"id": "a"}': "missing_text",
    b'{"id": "a", "text": null}': "missing_text",
    b'{"id": "a", "Text": "t"}': "missing_text",
    b'{"id": "a", "text": 5}': "text_not_string",
    b'{"id": "a", "text": true}': "text_not_string",
    b'{"id": "a", "text": ["t"]}': "text_not_string",
    b'{"id": "a", "text": {"t": "t"}}': "text_not_string",
    b'{"id": "a", "text": "\\ud800"}': "lone_surrogate",
    b'{"id": "a", "text": "\\udc00\\ud800"}': "lone_surrogate",
    b'{"id": "a", "text": "\xed\xa0\x80"}': "lone_surrogate",
    b'{"id": "a", "text": "\xed\xa0\xbd\xed\xb8\x80"}': "lone_surrogate",
}


@pytest.mark.parametrize(("line", "expected"), BAD.items(), ids=[f"{r}-{n}" for n, r in enumerate(BAD.values())])
def test_a_record_that_is_no_document_says_why(line: bytes, expected: str) -> None:
    assert reason(line) == expected


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_reject_keeps_its_place_its_bytes_and_their_digest(line: bytes) -> None:
    before, reject, after = read(b'{"id": "0", "text": "before"}\n' + line + b'\n{"id": "2", "text": "after"}')
    digest = hashlib.sha256(line).hexdigest()
    assert isinstance(reject, Reject)
    assert [before.row, reject._replace(detail=""), after.row] == [
        0,
        Reject(1, BAD[line], "", line[:RAW_BYTES], len(line), digest, offset=30, line=line),
        2,
    ]


def test_every_reason_that_a_line_can_have_is_a_known_one() -> None:
    assert set(BAD.values()) < set(REASONS)


def test_a_surrogate_pair_is_one_character() -> None:
    assert document(b'{"id": "a", "text": "\\ud83d\\ude00"}').text == "\U0001f600"


def test_nul_and_the_empty_text_are_left_to_the_recipe_to_judge() -> None:
    assert [document(line).text for line in (b'{"text": "a\\u0000b"}', b'{"text": ""}')] == ["a\0b", ""]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'\xef\xbb\xbf{"id": "a", "text": "t"}', ("a", ("lenient_json",))),
        (b'{"id": "a", "text": "t", "m": NaN}', ("a", ("lenient_json",))),
        (b'{"id": "a", "text": "t", "m": -Infinity}', ("a", ("lenient_json",))),
        (b'{"id": "a", "text": "t", "m": 1e999}', ("a", ())),
        (b'{"id": "a", "text": "t", "m": "\\ud800"}', ("a", ("lenient_json",))),
        (b'{"id": "a", "text": "t", "m": "\xff"}', ("a", ())),
        (b'{"id": "a", "text": "t", "m": ' + b"1" * 5000 + b"}", ("a", ())),
        (b'{"\\u0069d": "a", "te\\u0078t": "t"}', ("a", ())),
    ],
)
def test_oddities_beside_the_text_are_tolerated(line: bytes, expected: tuple[str, tuple[str, ...]]) -> None:
    assert (document(line).id, document(line).notes) == expected


MADE = f"{PATH}#0"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (b'"x"', ("x", ())),
        (b'""', ("", ())),
        (b"17", ("17", ("id_not_string",))),
        (b"-5", ("-5", ("id_not_string",))),
        (b"123456789012345678901234567890", ("123456789012345678901234567890", ("id_not_string",))),
        (b"null", (MADE, ("id_made",))),
        (b"true", (MADE, ("id_made",))),
        (b"1.5", (MADE, ("id_made",))),
        (b"[1]", (MADE, ("id_made",))),
        (b'{"a": 1}', (MADE, ("id_made",))),
        (b'"\\ud800"', (MADE, ("lenient_json", "id_made"))),
    ],
)
def test_ids_of_other_types_are_tolerated_and_noted(found: bytes, expected: tuple[str, tuple[str, ...]]) -> None:
    item = document(b'{"text": "t", "id": ' + found + b"}")
    assert (item.id, item.notes) == expected


def test_a_missing_id_is_made_of_the_file_and_the_row_and_noted() -> None:
    items = read(b'\n{"text": "t"}\n{"text": "u"}')
    assert items == [
        Document(1, f"{PATH}#1", "t", b'{"text": "t"}', ("id_made",)),
        Document(2, f"{PATH}#2", "u", b'{"text": "u"}', ("id_made",)),
    ]


def test_a_rule_without_an_id_field_makes_every_id_and_notes_nothing() -> None:
    item = document(b'{"text": "t", "id": "a"}', TextRule(id_field=None))
    assert (item.id, item.notes) == (MADE, ())


def test_a_rule_without_an_id_field_takes_a_second_look_too() -> None:
    item = document(b'{"text": "t", "id": NaN}', TextRule(id_field=None))
    assert (item.id, item.notes) == (MADE, ("lenient_json",))


def test_other_names_of_fields_are_a_matter_of_the_rule() -> None:
    assert document(b'{"doc": "d", "body": "b"}', TextRule(fields=["body"], id_field="doc"))[1:3] == ("d", "b")


EITHER = TextRule(text_field=["text", "content", "doc.body"], id_field="doc.id")


@pytest.mark.parametrize("odd", ["", ', "more": NaN'])  # by the typed decoder, and by the second look
@pytest.mark.parametrize(
    ("record", "text", "found_id", "notes"),
    [
        ('"text": "t", "content": "c", "doc": {"id": "a"}', "t", "a", ()),
        ('"content": "c"', "c", MADE, ("text_in:content", "id_made")),
        ('"text": null, "content": "c", "doc": {"id": 7}', "c", "7", ("text_in:content", "id_not_string")),
        ('"doc": {"body": "b", "id": "x", "n": [1, {"y": 2}]}', "b", "x", ("text_in:doc.body",)),
        ('"doc.body": "literal", "doc": {"body": "b"}', "literal", MADE, ("text_in:doc.body", "id_made")),
        ('"text": "t", "doc": "no object", "doc.id": "l"', "t", "l", ()),
    ],
)
def test_the_text_is_the_first_of_several_names_also_within_objects(
    odd: str, record: str, text: str, found_id: str, notes: tuple[str, ...]
) -> None:
    item = document(f"{{{record}{odd}}}".encode(), EITHER)
    lenient = ("lenient_json",) if odd else ()
    assert (item.text, item.id, set(item.notes)) == (text, found_id, {*notes, *lenient})


@pytest.mark.parametrize(
    ("line", "why", "detail"),
    [
        (b'{"body": "b"}', "missing_text", "no field 'text' or 'content' or 'doc.body'"),
        (b'{"text": null, "doc": {}}', "missing_text", "'text' is null"),
        (b'{"content": null}', "missing_text", "'content' is null"),
        (b'{"content": 5, "doc": {"body": "b"}}', "text_not_string", "'content' is a JSON int"),
        (b'{"doc": {"body": "\\ud800"}}', "lone_surrogate", "in 'doc.body'"),
        (b'{"doc": {"body": [1]}}', "text_not_string", "'doc.body' is a JSON list"),
    ],
)
def test_a_record_with_none_of_several_names_says_which_were_asked_for(line: bytes, why: str, detail: str) -> None:
    item = one(line, EITHER)
    assert isinstance(item, Reject)
    assert (item.reason, item.detail) == (why, detail)


@given(
    records=st.lists(
        st.dictionaries(
            st.sampled_from(["text", "content", "doc", "doc.body", "id"]),
            st.text(max_size=3)
            | st.none()
            | st.integers()
            | st.dictionaries(st.sampled_from(["body", "id"]), st.text(max_size=3) | st.none(), max_size=2),
            max_size=4,
        ),
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None)
def test_the_typed_decoder_and_the_second_look_never_disagree(records: list[object]) -> None:
    for record in records:
        line = json.dumps(record).encode()
        lenient = b"\xef\xbb\xbf" + line  # which only the second look reads
        fast, slow = one(line, EITHER), one(lenient, EITHER)
        assert type(fast) is type(slow)
        if isinstance(fast, Document):
            assert isinstance(slow, Document)
            assert (fast.text, fast.id) == (slow.text, slow.id)
        else:
            assert isinstance(slow, Reject)
            assert (fast.reason, fast.detail) == (slow.reason, slow.detail)


def test_a_text_that_is_both_joined_and_the_first_of_several_is_refused() -> None:
    with pytest.raises(ValueError, match="fields are joined: say one"):
        TextRule(fields=["title", "text"], text_field=["a"])


PAIR = TextRule(fields=["prompt", "text"], join=" | ")


def test_several_text_fields_are_joined_in_the_order_of_the_rule() -> None:
    assert document(b'{"text": "t", "prompt": "p"}', PAIR).text == "p | t"


def test_several_text_fields_are_joined_the_same_way_by_the_second_look() -> None:
    assert document(b'{"text": "t", "prompt": "p", "m": NaN}', PAIR).text == "p | t"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"text": "t"}', "no field 'prompt'"),
        (b'{"prompt": "p", "text": null}', "'text' is null"),
        (b'{"prompt": 5, "text": "t"}', "'prompt' is a JSON int"),
        (b'{"prompt": "p", "text": "\\ud800"}', "in 'text'"),
    ],
)
def test_a_reject_names_the_field(line: bytes, detail: str) -> None:
    item = one(line, PAIR)
    assert isinstance(item, Reject)
    assert item.detail == detail


def test_a_line_too_long_is_one_reject_with_its_whole_length_and_digest() -> None:
    long = b'{"text": "' + b"x" * 3000 + b'"}'
    digest = hashlib.sha256(long).hexdigest()
    item = read(b'{"text": "a"}\n' + long + b'\n{"text": "b"}', max_line_bytes=2000)[1]
    detail = "3,012 bytes, the limit is 2,000 (bad_input.max_line_bytes)"
    assert item == Reject(1, "line_too_long", detail, long, len(long), digest, offset=14, line=digest.encode())


def test_rows_and_offsets_are_those_of_the_inflated_file() -> None:
    lines = [b'{"text": "%d"}' % n if n % 3 else b"bad" for n in range(100)]
    data = b"\r\n".join(lines)
    parse = parser(TextRule(), PATH, MAX_LINE_BYTES)
    items = [parse(line) for line in read_lines(inflate([gzip.compress(data)], PATH, 200), MAX_LINE_BYTES)]
    places = [(item.row, item.offset) for item in items if isinstance(item, Reject)]
    assert places == [(row, sum(len(line) + 2 for line in lines[:row])) for row in range(0, 100, 3)]


def at_depth(frames: int, line: bytes) -> Document | Reject:
    """The outcome with so many frames of Python on the stack: a worker has more than a test."""
    return one(line) if frames == 0 else at_depth(frames - 1, line)


@pytest.mark.parametrize("frames", [0, 300, 850])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_how_deep_a_record_may_nest_is_a_number_whatever_the_stack(frames: int, opening: bytes, closing: bytes) -> None:
    def nested(depth: int, value: bytes = b"1") -> bytes:
        inner = depth - 1  # the record itself is one
        return b'{"id": "a", "text": "[[{{", "m": ' + opening * inner + value + closing * inner + b"}"

    assert at_depth(frames, nested(512)) == Document(0, "a", "[[{{", nested(512))
    assert at_depth(frames, nested(512, b"NaN")) == Document(0, "a", "[[{{", nested(512, b"NaN"), ("lenient_json",))
    refused = at_depth(frames, nested(513))
    assert isinstance(refused, Reject)
    assert (refused.reason, refused.detail) == ("bad_json", "nested deeper than 512")
    assert at_depth(frames, b"[" * 100_000) == one(b"[" * 100_000)


@pytest.mark.parametrize("text", ["", "a" * 1000, '\n\t"' * 1000, "\u2019" * 1000, "\U0001f40b" * 1000])
def test_how_deep_a_record_nests_does_not_depend_on_its_text(text: str) -> None:
    for depth, is_kept in ((512, True), (513, False)):
        nested = json.loads("[" * (depth - 1) + "]" * (depth - 1))
        for ascii_only in (True, False):
            line = json.dumps({"id": "a", "text": text, "m": nested}, ensure_ascii=ascii_only).encode()
            assert isinstance(one(line), Document) == is_kept


def test_brackets_in_a_text_do_not_nest() -> None:
    text = '[{"' * 5_000
    line = json.dumps({"id": "a", "text": text, "m": [[1]]}).encode()
    assert document(line).text == text
