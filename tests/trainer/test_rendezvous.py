"""The ranks of one start meet, and none of them takes an address of the start before."""

import datetime
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from bamba_data.errors import Unfinished
from trainer.distributed.rendezvous import meet

SOON = datetime.timedelta(seconds=0.3)
LATER = datetime.timedelta(seconds=60)


def met(arrivals: list[Future[Store]]) -> list[Store]:
    return [arrival.result(timeout=60) for arrival in arrivals]


@pytest.mark.parametrize("first", [0, 2])
def test_ranks_that_come_in_any_order_share_what_they_write(first: int) -> None:
    store = HashStore()
    with ThreadPoolExecutor(3) as ranks:
        order = [first, *(rank for rank in range(3) if rank != first)]
        books = met([ranks.submit(meet, store, rank, 3, LATER) for rank in order])
    books[0].set("address", "here")
    assert [book.get("address") for book in books] == [b"here"] * 3


def test_a_rank_that_is_back_before_rank_zero_does_not_read_what_the_last_start_wrote() -> None:
    store = HashStore()
    with ThreadPoolExecutor(2) as ranks:
        for start in range(3):
            early = ranks.submit(meet, store, 1, 2, LATER)
            with pytest.raises(TimeoutError):
                early.result(timeout=0.1)
            books = met([ranks.submit(meet, store, 0, 2, LATER), early])
            assert not books[1].check(["address"])
            books[0].set("address", str(start))
            assert books[1].get("address") == str(start).encode()


def test_a_start_that_is_killed_half_way_is_no_start_for_the_next() -> None:
    store = HashStore()
    with pytest.raises(Unfinished, match=r"of 3 ranks 2 did not start in 0 s: 1, 2"):
        meet(store, 0, 3, SOON)
    with ThreadPoolExecutor(3) as ranks:
        early = [ranks.submit(meet, store, rank, 3, LATER) for rank in (2, 1)]
        books = met([ranks.submit(meet, store, 0, 3, LATER), *early])
    books[0].set("address", "here")
    assert [book.get("address") for book in books] == [b"here"] * 3


def test_a_rank_without_a_rank_zero_says_so() -> None:
    with pytest.raises(Unfinished, match="rank 1 waited 0 s for rank 0 and all others to start"):
        meet(HashStore(), 1, 2, SOON)
