"""A budget lets through so many requests a second and none while a host asked for silence, whoever asks."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data.storage.rate_limit import LocalBudget, TokenBuckets

HOST = "huggingface.co"


def test_a_burst_is_free_and_then_requests_come_at_the_rate() -> None:
    buckets = TokenBuckets(requests_per_second=4.0, burst=3)
    waits = [buckets.reserve(HOST, now=100.0) for _ in range(6)]
    assert waits == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75])


def test_tokens_come_back_with_time_and_never_more_than_the_burst() -> None:
    buckets = TokenBuckets(requests_per_second=4.0, burst=3)
    for _ in range(3):
        buckets.reserve(HOST, now=0.0)
    assert [buckets.reserve(HOST, now=1000.0) for _ in range(4)] == pytest.approx([0, 0, 0, 0.25])


def test_each_host_has_a_bucket_of_its_own() -> None:
    buckets = TokenBuckets(requests_per_second=1.0, burst=1)
    buckets.reserve(HOST, now=0.0)
    assert buckets.reserve("olmo-data.org", now=0.0) == 0


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_in_no_window_are_there_more_requests_than_burst_and_rate_allow(
    rate: float, burst: int, gaps: list[float]
) -> None:
    buckets, now, sent = TokenBuckets(rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        sent.append(now + buckets.reserve(HOST, now))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            allowed = burst + (sent[last] - sent[first]) * rate
            assert last - first + 1 <= allowed + 1e-6


def test_a_pause_holds_all_requests_to_that_host_back() -> None:
    buckets = TokenBuckets(requests_per_second=10.0, burst=10)
    buckets.pause(HOST, seconds=30.0, now=100.0)
    assert [buckets.reserve(host, now=110.0) for host in (HOST, "other")] == pytest.approx([20.0, 0])


def test_a_pause_on_top_of_a_debt_waits_for_the_later_of_the_two() -> None:
    buckets = TokenBuckets(requests_per_second=1.0, burst=1)
    for _ in range(6):
        buckets.reserve(HOST, now=0.0)
    buckets.pause(HOST, seconds=3.0, now=0.0)
    assert buckets.reserve(HOST, now=0.0) == pytest.approx(6.0)


@pytest.mark.parametrize(("second", "silent_at_5"), [(30.0, 26.0), (2.0, 5.0)])
def test_a_second_pause_extends_the_first_and_never_shortens_it(second: float, silent_at_5: float) -> None:
    buckets = TokenBuckets(requests_per_second=1.0, burst=1)
    buckets.pause(HOST, seconds=10.0, now=0.0)
    buckets.pause(HOST, seconds=second, now=1.0)
    assert buckets.silence(HOST, now=5.0) == pytest.approx(silent_at_5)


def test_seconds_of_silence_are_counted_once_however_often_they_are_asked_for() -> None:
    buckets = TokenBuckets(requests_per_second=1.0, burst=1)
    for now, seconds in ((0.0, 10.0), (1.0, 9.0), (2.0, 3.0), (5.0, 10.0), (100.0, 1.0)):
        buckets.pause(HOST, seconds, now)
    assert buckets.throttled_seconds == {HOST: pytest.approx(16.0)}


def test_a_host_that_was_never_asked_is_not_silent() -> None:
    assert TokenBuckets(1.0, 1).silence(HOST, now=0.0) == 0


def test_a_pause_stops_every_thread_that_shares_the_budget() -> None:
    budget = LocalBudget(requests_per_second=1000, burst=1000)
    budget.pause(HOST, 0.4)
    began = time.monotonic()
    passed: list[float] = []

    def ask() -> None:
        budget.take(HOST)
        passed.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 8
    assert min(passed) >= 0.35


def test_a_pause_that_comes_while_a_thread_waits_holds_it_longer() -> None:
    budget = LocalBudget(requests_per_second=5, burst=1)
    budget.take(HOST)
    began = time.monotonic()
    threading.Timer(0.05, budget.pause, (HOST, 0.5)).start()
    budget.take(HOST)
    assert time.monotonic() - began >= 0.5


def test_threads_together_get_the_rate_and_not_each_their_own() -> None:
    budget = LocalBudget(requests_per_second=40, burst=1)
    began = time.monotonic()

    def five() -> None:
        for _ in range(5):
            budget.take(HOST)

    threads = [threading.Thread(target=five) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 19 / 40 * 0.95
