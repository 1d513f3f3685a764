"""Work for a pool, in order, with a bounded number of results waiting (Python 3.14: `Executor.map(buffersize=)`)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def bounded_map(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """`work(item)` of each item, in their order; at most `ahead` of them are done or under way and not taken."""
    jobs: deque[Future[Result]] = deque()
    for item in items:
        jobs.append(pool.submit(work, item))
        if len(jobs) >= ahead:
            yield jobs.popleft().result()
    while jobs:
        yield jobs.popleft().result()
