"""One request budget for everybody who fetches: so many requests a second to a host, and silence when it asks.

A worker that backs off alone only moves the herd; when a host answers "slow down", `pause` stops all who share
the budget. This is the budget of one process; `pipelines.ray_jobs.rate_limit_actor` shares one among a cluster.
"""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol


class Budget(Protocol):
    """What all who fetch share: of a process (LocalBudget) or of a cluster. `host` is a name with its port."""

    def take(self, host: str) -> None:
        """Return when a request to `host` may be sent."""

    def pause(self, host: str, seconds: float) -> None:
        """`host` asked for silence: no request to it before `seconds` have passed."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    silent_until: float = 0.0


class TokenBuckets:
    """The arithmetic: a token bucket a host (https://en.wikipedia.org/wiki/Token_bucket), with credit, so that who
    comes first is served first. `reserve` tells how many seconds to wait; it never sleeps itself."""

    def __init__(self, requests_per_second: float, burst: int) -> None:
        self._rate, self._burst = requests_per_second, burst
        self._buckets: dict[str, _Bucket] = {}
        self.throttled_seconds: dict[str, float] = defaultdict(float)

    def reserve(self, host: str, now: float) -> float:
        """Take one token, on credit if need be; the seconds until it is valid."""
        bucket = self._buckets.setdefault(host, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled_at) * self._rate)
        bucket.filled_at = now
        bucket.tokens -= 1
        owed = max(0.0, -bucket.tokens / self._rate)
        return max(owed, bucket.silent_until - now)

    def silence(self, host: str, now: float) -> float:
        """The seconds for which `host` still asked for silence."""
        bucket = self._buckets.get(host)
        return max(0.0, bucket.silent_until - now) if bucket else 0.0

    def pause(self, host: str, seconds: float, now: float) -> None:
        bucket = self._buckets.setdefault(host, _Bucket(self._burst, now))
        longer = now + seconds - max(bucket.silent_until, now)
        if longer > 0:
            self.throttled_seconds[host] += longer
            bucket.silent_until = now + seconds


class LocalBudget:
    """A Budget for the threads of this process."""

    def __init__(self, requests_per_second: float = 8.0, burst: int = 50) -> None:
        self._buckets = TokenBuckets(requests_per_second, burst)
        self._lock = threading.Lock()

    def take(self, host: str) -> None:
        with self._lock:
            wait = self._buckets.reserve(host, time.monotonic())
        while wait > 0:
            time.sleep(wait)
            with self._lock:  # a pause may have come while we slept
                wait = self._buckets.silence(host, time.monotonic())

    def pause(self, host: str, seconds: float) -> None:
        with self._lock:
            self._buckets.pause(host, seconds, time.monotonic())
