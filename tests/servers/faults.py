"""A plan of faults: what goes wrong, for which requests, how often. What is left in it has not fired yet.

Each request takes the first fault whose regex is found in "METHOD /path" (path unquoted, without query).
The first `skip` matches pass unharmed, then `times` requests are hit, then the fault is gone from the list.
"""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

FOREVER = sys.maxsize


@dataclass(frozen=True)
class Status:
    """Answers with this status instead; the hub says how long to wait in RateLimit, others in Retry-After."""

    status: int
    retry_after_seconds: int | None = None
    ratelimit_seconds: int | None = None
    code: str = ""

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.ratelimit_seconds is not None:
            headers["RateLimit"] = f'"resolver";r=0;t={self.ratelimit_seconds}'
        return headers


@dataclass(frozen=True)
class Reset:
    """Resets the connection (RST) after so many body bytes at most; None: before any answer or forwarding."""

    after_bytes: int | None = None


@dataclass(frozen=True)
class EndEarly:
    """Closes the connection in good order after exactly so many body bytes, under the full Content-Length."""

    after_bytes: int


@dataclass(frozen=True)
class Truncate:
    """Sends only the first bytes of the body, and a Content-Length and Content-Range that say so."""

    to_bytes: int


@dataclass(frozen=True)
class Stall:
    """Sends nothing for so long, then goes on; None: before any answer, else after so many body bytes."""

    seconds: float
    after_bytes: int | None = None


@dataclass(frozen=True)
class FlipBit:
    """Flips the lowest bit of the byte at this offset of the file, in whatever range it is served."""

    offset: int


@dataclass(frozen=True)
class Replace:
    """Serves this content under its own ETag: upstream changed the file. times=FOREVER: from now on."""

    content: bytes


@dataclass(frozen=True)
class IgnoreRange:
    """Answers 200 with the whole file to a request for a range."""


@dataclass(frozen=True)
class LoseReply:
    """Carries the request out, then closes the connection without an answer (the proxy only)."""


Action = Status | Reset | EndEarly | Truncate | Stall | FlipBit | Replace | IgnoreRange | LoseReply


@dataclass(frozen=True)
class Fault:
    match: str
    action: Action
    times: int = 1
    skip: int = 0
    probability: float = 1.0


class FaultPlan(list[Fault]):
    """The faults still to come; change it like any list, also while the server runs."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        super().__init__(faults)
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def take(self, request_line: str) -> Action | None:
        """What goes wrong with this request; counts it."""
        with self._lock:
            for index, fault in enumerate(self):
                if not re.search(fault.match, request_line):
                    continue
                if fault.skip:
                    self[index] = replace(fault, skip=fault.skip - 1)
                elif fault.probability == 1.0 or self._random.random() < fault.probability:
                    if fault.times == 1:
                        del self[index]
                    else:
                        self[index] = replace(fault, times=fault.times - 1)
                    return fault.action
        return None


class RateWindow:
    """Admits at most so many requests in any one second; refused ones do not count."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._admitted: deque[float] = deque()
        self._lock = threading.Lock()

    def admit(self) -> bool:
        now = time.monotonic()
        with self._lock:
            while self._admitted and self._admitted[0] <= now - 1.0:
                self._admitted.popleft()
            if len(self._admitted) >= self._per_second:
                return False
            self._admitted.append(now)
            return True
