"""An id is new exactly once, however many there are and however they come, in 16 bytes an id."""

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.tokenization import dedup
from bamba_data.tokenization.dedup import SeenIds
from tests.bamba_data.memory import grown


@given(
    batches=st.lists(st.lists(st.text("a?\0\ud800", max_size=3), max_size=12), max_size=12),
    recent=st.integers(1, 10),
)
@settings(max_examples=200, deadline=None)
def test_an_id_is_new_exactly_once(batches: list[list[str]], recent: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "_RECENT", recent)
        ids, known = SeenIds(), set[str]()
        for batch in batches:
            expected = []
            for one in batch:
                expected.append(one not in known)
                known.add(one)
            assert ids.add(batch) == expected


def test_hundreds_of_thousands_of_ids_are_told_apart() -> None:
    ids = SeenIds()
    new = sum(sum(ids.add([f"doc-{n}" for n in range(start, start + 4000)])) for start in range(0, 300_000, 4000))
    again = sum(sum(ids.add([f"doc-{n}" for n in range(start, start + 4000)])) for start in range(0, 300_000, 4000))
    assert (new, again) == (300_000, 0)


def test_a_digest_that_ends_in_zero_bytes_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's byte strings drop trailing zeros."""
    monkeypatch.setattr(dedup, "_RECENT", 1)
    digests = {"a": bytes(16), "b": b"\1" + bytes(15), "c": b"\1\2" + bytes(14), "d": bytes(15) + b"\1"}
    monkeypatch.setattr(xxhash, "xxh3_128_digest", lambda data: digests[data.decode()])
    ids = SeenIds()
    assert [ids.add([one]) for one in "abcdabcd"] == [[True]] * 4 + [[False]] * 4


def test_beyond_the_limit_nothing_more_is_remembered_and_that_is_said() -> None:
    ids = SeenIds(max_ids=3)
    assert (ids.add(["a", "b"]), ids.full) == ([True, True], False)
    assert (ids.add(["c", "d", "d"]), ids.full) == ([True, True, True], True)
    assert ids.add(["a", "c", "d"]) == [False, False, True]


MILLIONS = """
from bamba_data.tokenization.dedup import SeenIds
ids, before = SeenIds(), peak()
for start in range(0, 700_000, 4000):
    ids.add([f"doc-{n}" for n in range(start, start + 4000)])
done(len(ids._known) + len(ids._recent), before)
"""


def test_the_memory_of_many_ids_is_that_of_their_digests() -> None:
    count, size_bytes = grown(MILLIONS)
    assert (count, size_bytes < 80 << 20) == (700_000, True)
