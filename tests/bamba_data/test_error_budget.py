"""When bad records are too many: in exact numbers, and with advice that is enough and no more than that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data.error_budget import STOP_AFTER, is_exceeded, is_hopeless, stop_share, sufficient_rate


@pytest.mark.parametrize(
    ("rate", "share"), [(0.0, 0.1), (1e-6, 0.1), (0.01, 0.1), (0.05, 0.5), (0.1, 0.55), (0.5, 0.75), (1.0, 1.0)]
)
def test_the_stop_share_is_a_tenth_or_ten_times_the_rate_but_at_most_half_way_to_all(rate: float, share: float) -> None:
    assert float(stop_share(rate)) == pytest.approx(share)


@pytest.mark.parametrize(
    ("bad", "read", "rate", "expected"),
    [
        (STOP_AFTER - 1, STOP_AFTER - 1, 1e-6, False),
        (STOP_AFTER, STOP_AFTER, 1e-6, True),
        (STOP_AFTER, 10 * STOP_AFTER - 1, 1e-6, True),
        (STOP_AFTER, 10 * STOP_AFTER, 1e-6, False),
        (STOP_AFTER, STOP_AFTER, 0.99, True),
        (10**9, 10**9, 1.0, False),
    ],
)
def test_an_input_is_hopeless_after_a_thousand_that_are_more_than_the_share(
    bad: int, read: int, rate: float, expected: bool
) -> None:
    assert is_hopeless(bad, read, rate) == expected


@given(read=st.integers(1, 10**12), share=st.floats(0, 1))
def test_the_rate_that_is_advised_is_enough_and_not_much_more(read: int, share: float) -> None:
    bad = max(1, int(read * share))
    advised = float(sufficient_rate(bad, read))
    assert not is_exceeded(bad, read, advised)
    assert advised <= 1
    assert advised <= 1.12 * bad / read


def test_a_rate_is_taken_as_people_write_it() -> None:
    assert not is_exceeded(29, 100, 0.29)  # 0.29 * 100 is below 29 in floating point
    assert is_exceeded(30, 100, 0.29)
