"""The account of a file balances, and adding accounts loses nothing."""

from hypothesis import given
from hypothesis import strategies as st

from bamba_data.document import KEEPABLE, REASONS, Ledger

COUNTS = st.dictionaries(st.sampled_from(sorted(REASONS)), st.integers(1, 100))


@st.composite
def balanced(draw: st.DrawFn) -> Ledger:
    kept, dropped, dead = draw(st.integers(0, 100)), draw(COUNTS), draw(COUNTS)
    read = kept + sum(dropped.values()) + sum(dead.values())
    tokens, text_bytes = draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 40))
    return Ledger(read, kept, tokens, text_bytes, dropped, dead, draw(COUNTS))


@given(st.lists(balanced(), max_size=5))
def test_the_sum_of_accounts_that_balance_balances_and_counts_everything_once(parts: list[Ledger]) -> None:
    total = Ledger()
    for part in parts:
        total.add(part)
    assert total.balanced
    assert (total.read, total.tokens, total.bad) == (
        sum(part.read for part in parts),
        sum(part.tokens for part in parts),
        sum(part.bad for part in parts),
    )


def test_an_account_that_lost_a_record_does_not_balance() -> None:
    assert not Ledger(read=3, kept=1, dropped={"empty_text": 1}).balanced


def test_adding_leaves_the_other_account_alone() -> None:
    one, other = Ledger(), Ledger(read=1, dropped={"nul": 1})
    one.add(other)
    one.add(other)
    assert (one.dropped, other.dropped) == ({"nul": 2}, {"nul": 1})


def test_only_what_has_a_text_can_be_kept() -> None:
    assert {"nul", "duplicate_id"} == KEEPABLE
    assert set(REASONS) > KEEPABLE
