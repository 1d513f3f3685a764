"""One run at a time in a run's folder: the holder is told by an object that it touches while it works.

    lease/000007.json   of the seventh holder, in a row without gaps of live ones; the highest number holds

A lease is taken by creating the next number, which the store grants to one of any number of processes. A holder that
was not heard of for LIVES_SECONDS by the store's own clock is gone, and so, at once, is one of this machine whose
process has ended. Who is superseded finds out before its next commit, and ends. Ranks of one run share rank 0's.
"""

import contextlib
import logging
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bamba_data.errors import BambaError, CorruptManifest, RunHeld
from bamba_data.records import seal, unseal
from bamba_data.storage.store import Entry, Store, now

FOLDER = "lease"
FORMAT = "bamba-run-lease/1"
BEAT_SECONDS = 10.0  # between two touches
LIVES_SECONDS = 60.0  # six touches: a store may be away for a while, and a process be slow under load
MAX_BYTES = 1 << 16
_NUMBERED = re.compile(rf"^{FOLDER}/(\d{{6,}})\.json$")


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """A process that holds the run.

    `machine` names its host's boot and its process namespace, and `began` the process: the number of a process means
    nothing on another machine, and may be used again on this one.
    """

    host: str
    process: int
    machine: str
    began: str
    token: str

    @classmethod
    def me(cls) -> "LeaseHolder":
        began = _began(os.getpid()) or ""
        return cls(socket.gethostname(), os.getpid(), _machine(), began, secrets.token_hex(8))

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.host else "a holder whose record cannot be read"

    @property
    def is_here(self) -> bool:
        """Whether this process can tell if it lives."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def has_ended(self) -> bool:
        return self.is_here and _began(self.process) != self.began


UNKNOWN = LeaseHolder("", 0, "", "", "")


class Lease:
    """Of the run in `store`; `log` tells people why it waits."""

    def __init__(self, store: Store, log: logging.Logger) -> None:
        self.store, self.log = store, log
        self.me = LeaseHolder.me()
        self._number = 0  # none
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Hold it from here on. Waits at most LIVES_SECONDS to know whether another holder is alive.

        Raises:
            RunHeld: One is.
        """
        first: tuple[int, bytes] | None = None
        while True:
            number, entry = self._newest()
            if entry is None:
                if self._created(number + 1):
                    break
                continue
            text = self._read(entry.path)
            holder = _holder_of(text, entry.path)
            age = LIVES_SECONDS if holder.has_ended else now(self.store, FOLDER) - entry.modified
            if age >= LIVES_SECONDS:
                if self._created(number + 1):
                    break
                continue
            # Alive if it is a process of this machine, or was heard of while we waited: each touch changes the text.
            if holder.is_here or (first is not None and first != (number, text)):
                raise RunHeld(self.store.url, f"{holder}, last heard of {max(age, 0):.0f} s ago")
            if first is None:
                first = number, text
                self.log.warning(
                    f"{self.store.url}: {holder} was at work here {max(age, 0):.0f} s ago; waiting until it is heard "
                    f"of again, or was not for {LIVES_SECONDS:.0f} s"
                )
            time.sleep(1.0)
        for number, entry in self._all():
            if number < self._number:
                self.store.delete(entry.path)
        self._thread = threading.Thread(target=self._touch, daemon=True, name="lease of the run")
        self._thread.start()

    def check(self) -> None:
        """`RunHeld` if somebody else has taken over, because this process was not heard of for too long."""
        if not self._number:
            return
        _, entry = self._newest()
        holder = UNKNOWN if entry is None else _holder_of(self._read(entry.path), entry.path)
        if holder != self.me:  # by its token: numbers begin anew when a lease was given back
            self._ended.set()
            raise RunHeld(self.store.url, f"{holder}, which took over when this process was not heard of")

    def release(self) -> None:
        """Let others in."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        with contextlib.suppress(BambaError, OSError):  # it will be taken for dead, then
            self.check()
            self.store.delete(_path(self._number))
        self._number = 0

    def _created(self, number: int) -> bool:
        # "Not created" may be the answer to our own first try, whose reply was lost: read back.
        data = self._record(0)
        if self.store.create(_path(number), data) or self._read(_path(number)) == data:
            self._number = number
            return True
        return False

    def _record(self, beat: int) -> bytes:
        me = self.me
        holder = {"host": me.host, "process": me.process, "machine": me.machine, "began": me.began, "token": me.token}
        return seal({"format": FORMAT, "holder": holder, "beat": beat})

    def _touch(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(BambaError, OSError):  # a store that is full or away: the next beat may land
                self.check()
                self.store.put(_path(self._number), self._record(beat))

    def _all(self) -> list[tuple[int, Entry]]:
        matches = [(_NUMBERED.match(entry.path), entry) for entry in self.store.list(FOLDER)]
        return sorted((int(matched[1]), entry) for matched, entry in matches if matched)

    def _newest(self) -> tuple[int, Entry | None]:
        return max(self._all(), default=(0, None), key=lambda numbered: numbered[0])

    def _read(self, path: str) -> bytes:
        try:
            return self.store.read(path)
        except FileNotFoundError:  # given back this moment
            return b""


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _holder_of(data: bytes, where: str) -> LeaseHolder:
    """Whose it is; nobody's that we know if it cannot be read: then only the store's clock tells."""
    try:
        return LeaseHolder(**unseal(data, where, MAX_BYTES)["holder"])
    except (CorruptManifest, KeyError, TypeError):
        return UNKNOWN


def _machine() -> str:
    """This boot of this machine and its process namespace, or '' where that cannot be told (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}/{socket.gethostname()}"  # noqa: PTH115 (it is no path)
    except OSError:
        return ""


def _began(process: int) -> str | None:
    """When it began, in the kernel's ticks; None if it is no more, or dead and only not yet waited for."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]
