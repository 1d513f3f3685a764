"""The fence around a place: builds hold it together while they write, a sweep alone while it deletes.

Each holder has a lease, an object of its own that it touches now and then. It first writes its lease and then looks
for those of others, so that of a build and a sweep that come at once at least one sees the other: the sweep refuses,
the build waits. A lease that was not touched for LIVES_SECONDS (a sweep's: SWEEP_LIVES_SECONDS), by the store's clock,
is dead. Who passes over a dead one deposes its holder first, for good: a holder that was suspended, wakes up and asks
(`check`) finds itself deposed and stops. (Leases: Gray and Cheriton, SOSP 1989. A lease alone does not stop a holder
that slept through its end; the deposition does.)

    with shared(store, holder) as held:       a build; waits for a sweep
    with exclusive(store) as held:            a sweep; UserError while a build or another sweep runs
        held.check()                          FenceLost if it is not ours any more
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bamba_data.errors import BambaError, IntegrityError, Unfinished, UserError
from bamba_data.format.layout import LEASES
from bamba_data.records import Record
from bamba_data.storage.store import Entry, Store

LIVES_SECONDS = 900.0
SWEEP_LIVES_SECONDS = 60.0  # so long a build waits at most for a sweep that was killed; it asks before every batch
TOUCHES_A_LIFE = 6
POLL_SECONDS = 1.0
LOOKS, LOOK_SECONDS = 60, 0.2
WAIT_SECONDS = 3600.0
_SWEEP = f"{LEASES}/sweep-"
_DEPOSED = ".deposed"


class FenceLost(Unfinished):
    """A holder was silent for too long, and another has passed over it; nothing was published or removed since."""


@dataclass(frozen=True)
class Lease(Record):
    """`holder` is its own path."""

    FORMAT = "bamba-lease/1"

    holder: str


@dataclass(frozen=True)
class Deposition(Record):
    """`deposed_by` is the lease of who passed over a dead holder."""

    FORMAT = "bamba-lease/1"

    deposed_by: str


class Fence:
    """One holder's side of it."""

    def __init__(self, store: Store, path: str) -> None:
        self.path = path
        self._store = store
        self._ended = threading.Event()
        self._touching = threading.Lock()

    def take(self) -> list[str]:
        """Take it, or return the leases that stand against that, and leave it."""
        against = self._against()
        if against:
            self._store.delete(self.path)
            return against
        self._thread = threading.Thread(target=self._keep_touching, daemon=True, name="fence")
        self._thread.start()
        return []

    def check(self) -> None:
        """Return if it is ours, and for the next minutes. Raises FenceLost if we were passed over."""
        against = self._against()
        for _ in range(LOOKS):
            if self._is_deposed or not against:
                break
            # Who only asks shows its lease for a moment, too, and takes it back when it has seen ours.
            time.sleep(LOOK_SECONDS)
            against = self._against()
        if against or self._is_deposed:
            other = ", ".join(against) or f"{self.path}{_DEPOSED}"
            raise FenceLost(
                f"{self._store.url}: this process said nothing for more than {lives_seconds(self.path):g} s, and its "
                f"fence was taken over ({other}); it stops here, nothing is lost: run the same command again"
            )

    def check_soon(self) -> None:
        """The same, unless it was checked so lately that nobody can have passed over us since: for right before what
        must not come too late. (Not by our last touch: a process that wakes up may touch before it asks.)"""
        if time.monotonic() - self._checked_at > lives_seconds(self.path) / 4:
            self.check()

    def leave(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(BambaError, OSError):  # it dies by itself
            self._store.delete(self.path)

    def _against(self) -> list[str]:
        """Touch, then look: in this order."""
        self._checked_at = time.monotonic()
        self._touch()
        there = {entry.path: entry for entry in self._store.list(LEASES)}
        self._is_deposed = f"{self.path}{_DEPOSED}" in there
        if self.path not in there:  # removed by hand, this very moment
            self._is_deposed = True
            return []
        clock = there[self.path].modified
        rivals = [entry for path, entry in there.items() if path != self.path and self._excludes(path)]
        living = alive(there.values(), clock)
        for entry in rivals:
            if entry.path not in living:
                self._store.create(f"{entry.path}{_DEPOSED}", Deposition(self.path).sealed())
        return sorted(entry.path for entry in rivals if entry.path in living)

    def _excludes(self, path: str) -> bool:
        return path.endswith(".json") and (self.path.startswith(_SWEEP) or path.startswith(_SWEEP))

    def _touch(self) -> None:
        with self._touching:  # one write at a time: an older one must not land after a newer
            self._store.put(self.path, Lease(self.path).sealed())

    def _keep_touching(self) -> None:
        while not self._ended.wait(lives_seconds(self.path) / TOUCHES_A_LIFE):
            # The store may be away for a while: the next touch may land, and whether we were in time `check` says.
            with contextlib.suppress(BambaError, OSError):
                self._touch()


@contextlib.contextmanager
def shared(store: Store, holder: str | None = None, say: Callable[[str], None] = lambda line: None) -> Iterator[Fence]:
    """The fence for a build. While a sweep deletes it waits, and says so; raises Unfinished after WAIT_SECONDS. An
    IntegrityError within is FenceLost where the fence was lost: what is missed then was swept."""
    fence, end = Fence(store, f"{LEASES}/{holder or secrets.token_hex(8)}.json"), time.monotonic() + WAIT_SECONDS
    said = False
    while against := fence.take():
        if time.monotonic() >= end:
            raise Unfinished(f"{store.url}: a sweep is deleting ({', '.join(against)}); run the same command again")
        if not said:
            say(f"waiting for a sweep that is deleting in {store.url} ({', '.join(against)})")
            said = True
        time.sleep(POLL_SECONDS)
    try:
        yield fence
    except (IntegrityError, FileNotFoundError) as error:
        # What a sweep removed while this process was suspended looks like damage.
        try:
            fence.check()
        except FenceLost as lost:
            raise lost from error
        except (BambaError, OSError):
            pass  # the store does not say: the first error tells more
        raise
    finally:
        fence.leave()


@contextlib.contextmanager
def exclusive(store: Store) -> Iterator[Fence]:
    """The fence for a sweep that deletes. Raises UserError while anybody else holds it."""
    fence = Fence(store, f"{_SWEEP}{secrets.token_hex(8)}.json")
    if against := fence.take():
        raise UserError(running(store.url, against))
    try:
        yield fence
    finally:
        fence.leave()


def running(url: str, leases: Iterable[str]) -> str:
    """What a sweep is told that cannot have the fence."""
    listed = list(leases)
    who = "another sweep" if all(path.startswith(_SWEEP) for path in listed) else "a build"
    return f"{url}: {who} is running ({', '.join(listed)}): its staged work must stay; wait for it"


def alive(entries: Iterable[Entry], clock: float) -> set[str]:
    """The leases among `entries` that were touched lately and whose holders are not deposed."""
    there = {entry.path: entry for entry in entries if entry.path.startswith(f"{LEASES}/")}
    return {
        path
        for path, entry in there.items()
        if path.endswith(".json") and clock - entry.modified < lives_seconds(path) and f"{path}{_DEPOSED}" not in there
    }


def lives_seconds(path: str) -> float:
    return SWEEP_LIVES_SECONDS if path.startswith(_SWEEP) else LIVES_SECONDS


def is_deposition(path: str) -> bool:
    """A note that a holder was passed over: to be kept for longer than anybody sleeps."""
    return path.startswith(f"{LEASES}/") and path.endswith(_DEPOSED)
