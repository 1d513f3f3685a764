"""One text for one value; and JSON that somebody else wrote is read only if it is plain."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_written_is_read_as_it_was(value: object) -> None:
    assert canonical_json.loads(canonical_json.dumps(value), "there", 1 << 20) == value


@given(st.dictionaries(TEXT, PLAIN, min_size=2, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, object], dice: object) -> None:
    pairs = list(value.items())
    dice.shuffle(pairs)  # type: ignore[attr-defined]
    assert canonical_json.dumps(dict(pairs)) == canonical_json.dumps(value)


def test_the_text_is_short_sorted_and_utf8() -> None:
    assert canonical_json.dumps({"b": [1, "\u0442"], "a": None}) == '{"a":null,"b":[1,"\u0442"]}\n'.encode()


def test_a_digest_is_that_of_the_text() -> None:
    assert canonical_json.digest({"a": 1}) == canonical_json.sha256(b'{"a":1}\n')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_no_number_without_a_text_is_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json.dumps(value)


HOSTILE = {
    b"": "not JSON",
    b"{": "not JSON",
    b"{} {}": "not JSON",
    b"{'a': 1}": "not JSON",
    b"[1,]": "not JSON",
    b"NaN": "NaN is not JSON",
    b"[-Infinity]": "-Infinity is not JSON",
    b"1e999": "out of range",
    b"-1e999": "out of range",
    b"9223372036854775808": "out of range",
    b"-9223372036854775808": "out of range",
    b"1" * 1_000_000: "out of range",
    b'{"a": 1, "a": 1}': "key 'a' stands twice",
    b'{"b": {"a": 1, "c": 2, "\\u0061": 3}}': "key 'a' stands twice",
    b"[" * 100_000: "nested deeper than 64",
    b'{"a":' * 100_000: "nested deeper than 64",
    b'"\\ud800"': "lone surrogate",
    b'{"\\udfff": 1}': "lone surrogate",
    b'"\xed\xa0\x80"': "not UTF-8",
    b'"\xff"': "not UTF-8",
    b"\xef\xbb\xbf{}": "not JSON",
    '{"a": 1}'.encode("utf-16"): "not UTF-8",
    '{"a": 1}'.encode("utf-16-le"): "not JSON",
    b'"a\nb"': "not JSON",
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_hostile_json_is_refused_and_the_place_named(data: bytes, message: str) -> None:
    with pytest.raises(CorruptManifest, match=f"^there: .*{message}"):
        canonical_json.loads(data, "there", 1 << 21)


def test_json_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(CorruptManifest, match="11 bytes of JSON, the limit is 10"):
        canonical_json.loads(b"[" * 11, "there", 10)


def test_a_key_that_stands_twice_among_very_many_is_found_at_once() -> None:
    keys = ",".join(f'"{n}":0' for n in range(100_000))
    with pytest.raises(CorruptManifest, match="key '99999' stands twice"):
        canonical_json.loads(f'{{{keys},"99999":0}}'.encode(), "there", 1 << 21)


@given(st.binary(max_size=40) | PLAIN.map(lambda value: json.dumps(value).encode()[:-1]))
def test_any_bytes_are_a_plain_value_or_refused(data: bytes) -> None:
    try:
        value = canonical_json.loads(data, "there", 1 << 20)
    except CorruptManifest:
        return
    canonical_json.dumps(value)


def at_depth(frames: int, call: Callable[[], object]) -> object:
    """What `call` gives with so many frames of Python on the stack."""
    return call() if frames == 0 else at_depth(frames - 1, call)


@pytest.mark.parametrize("frames", [0, 600, 900])
@pytest.mark.parametrize("around", ["[{}]", '{{"a":{}}}'])
def test_how_deep_it_may_nest_is_a_number_whatever_the_stack(frames: int, around: str) -> None:
    def nested(depth: int) -> bytes:
        text = "1"
        for _ in range(depth):
            text = around.format(text)
        return text.encode()

    at_depth(frames, lambda: canonical_json.loads(nested(64), "there", 1 << 20))
    with pytest.raises(CorruptManifest, match="nested deeper than 64"):
        at_depth(frames, lambda: canonical_json.loads(nested(65), "there", 1 << 20))
    with pytest.raises(CorruptManifest, match="nested deeper than 64"):
        at_depth(frames, lambda: canonical_json.loads(nested(5000), "there", 1 << 20))
