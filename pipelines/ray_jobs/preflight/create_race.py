"""Whether of many writers at one moment exactly one creates an object, which publishing stands on.

A store may keep `If-None-Match` for writers that come one after the other and not for two at once: it looks, then
writes. Every racer tries to create the same objects, one a round, with its own name as the content. One that hears
"created" is a winner; two winners of a round, or a winner whose content is not what lies there, are the fault. No
winner is none, where a racer's content lies there: a reply was lost, and that racer's own second try came too late.

    race_here(store, folder)                       threads of this process
    race_on_node(url, folder, name, racers)        one racer of several machines, which wait for each other at the store
    judged(store, folder, heard)                   what came of it
"""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bamba_data.storage.store import Store, open_store

RACERS = 8
ROUNDS = 4
READY_SECONDS = 30.0  # a machine that is later races alone, which finds less and is no fault
POLL_SECONDS = 0.05
ROUND_SECONDS = 0.5  # between the rounds of several machines

#: By racer: whether it heard "created", round by round.
Heard = Mapping[str, Sequence[bool]]


def race_here(place: Store, folder: str) -> tuple[bool, str]:
    """A race of RACERS threads; its objects are removed. Gives whether all went well, and what happened."""
    barrier = threading.Barrier(RACERS)

    def run(name: str) -> list[bool]:
        heard = []
        try:
            for number in range(ROUNDS):
                barrier.wait(READY_SECONDS)
                heard.append(place.create(_object(folder, number), name.encode()))
        except BaseException:
            barrier.abort()  # the others would wait for us
            raise
        return heard

    names = [f"thread-{number}" for number in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as pool:
        futures = [pool.submit(run, name) for name in names]
    failures = [error for future in futures if (error := future.exception())]
    for error in failures:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    try:
        return judged(place, folder, {name: future.result() for name, future in zip(names, futures, strict=True)})
    finally:
        _remove(place, folder)


def race_on_node(url: str, folder: str, name: str, racers: int) -> list[bool]:
    """One racer of `racers`, each in a process of its own somewhere: what it heard, round by round."""
    place = open_store(url)
    place.put(f"{folder}/ready/{name}", b"")
    deadline = time.monotonic() + READY_SECONDS
    while sum(1 for _ in place.list(f"{folder}/ready")) < racers and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    began = time.monotonic()
    heard = []
    for number in range(ROUNDS):
        time.sleep(max(0.0, began + number * ROUND_SECONDS - time.monotonic()))
        heard.append(place.create(_object(folder, number), name.encode()))
    return heard


def judged_race_of_nodes(url: str, folder: str, heard: Heard) -> tuple[bool, str]:
    """What came of race_on_node, everywhere; its objects are removed."""
    place = open_store(url)
    try:
        return judged(place, folder, heard)
    finally:
        _remove(place, folder)


def judged(place: Store, folder: str, heard: Heard) -> tuple[bool, str]:
    """Whether every round had one winner at most, and what lies there is the winner's, or a racer's."""
    for number in range(ROUNDS):
        winners = [name for name, created in heard.items() if created[number]]
        content = place.read(_object(folder, number)).decode()
        if len(winners) > 1:
            return False, f"{len(winners)} of {len(heard)} writers at one moment were told that they created one object"
        if content not in (winners or heard):
            return False, f"{winners[0] if winners else 'nobody'} created an object, and another's content lies there"
    return True, f"of {len(heard)} writers at one moment one created the object, {ROUNDS} times"


def _object(folder: str, number: int) -> str:
    return f"{folder}/round-{number}"


def _remove(place: Store, folder: str) -> None:
    with contextlib.suppress(OSError):
        for entry in list(place.list(folder)):
            place.delete(entry.path)
