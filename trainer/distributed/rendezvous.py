"""The ranks of one start of a job meet, and no others: each start has an address book of its own.

A launcher that restarts a group keeps one store for all its starts (torchrun from torch 2.5 on, unless
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: github.com/pytorch/pytorch/issues/135712), and a rank of the second start then
reads where a process of the first one listened. It waits there until its timeout. A count of restarts is no way out,
since each machine has its own. So rank 0 names its start by a word that nobody used before, every other rank answers
with a word of its own, and who does not find its word among the answers was about to join a start that is over.
"""

import datetime
import json
import secrets
import time

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from bamba_data.errors import Unfinished

OPEN = "bamba/open"  # the start that rank 0 waits in
POLL_SECONDS = 0.02, 0.5  # at first, and at most: hundreds of ranks ask one store


def own_store(rank: int, size: int, timeout: datetime.timedelta) -> Store:
    """The launcher's store, by the environment's addresses, for this start alone: see `meet`."""
    store, rank, size = next(rendezvous("env://", rank, size, timeout=timeout))
    store.set_timeout(timeout)
    return meet(store, rank, size, timeout)


def meet(store: Store, rank: int, size: int, timeout: datetime.timedelta) -> Store:
    """A part of `store` that is new, the same for all `size` ranks that are here now.

    Raises:
        Unfinished: Some rank did not come in time; rank 0 says which.
    """
    mine, ends = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    if rank == 0:
        _lead(store, mine, size, ends)
        return PrefixStore(mine, store)
    start, pause = "", POLL_SECONDS[0]
    while True:
        if store.check([OPEN]) and (newest := store.get(OPEN).decode()) != start:
            start = newest
            store.set(_answer(start, rank), mine)
        if start and store.check([_whole(start)]) and json.loads(store.get(_whole(start)))[rank] == mine:
            return PrefixStore(start, store)
        if time.monotonic() > ends:
            raise Unfinished(f"rank {rank} waited {timeout.total_seconds():,.0f} s for rank 0 and all others to start")
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS[1])


def _lead(store: Store, mine: str, size: int, ends: float) -> None:
    """Rank 0's part: open a start, wait for the others, and write who they are."""
    began, pause = time.monotonic(), POLL_SECONDS[0]
    store.set(OPEN, mine)
    missing = list(range(1, size))
    while missing := [rank for rank in missing if not store.check([_answer(mine, rank)])]:
        if time.monotonic() > ends:
            shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
            raise Unfinished(f"of {size} ranks {len(missing)} did not start in {ends - began:,.0f} s: {shown}")
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS[1])
    # A rank that started anew meanwhile wrote its answer again: whoever is not the last one finds no word of its own.
    answers = [mine, *(store.get(_answer(mine, rank)).decode() for rank in range(1, size))]
    store.set(_whole(mine), json.dumps(answers))


def _answer(start: str, rank: int) -> str:
    return f"bamba/{start}/answer/{rank}"


def _whole(start: str) -> str:
    return f"bamba/{start}/whole"
