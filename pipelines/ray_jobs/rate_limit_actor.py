"""One request budget for a whole cluster: an actor that hands out tokens, and a client for the workers."""

import time
from collections.abc import Mapping
from typing import Any

from bamba_data.recipe import Network
from bamba_data.storage.rate_limit import TokenBuckets


class BudgetKeeper:
    """Runs as an actor: a token bucket for each host (bamba_data.storage.rate_limit). Answers at once: the waiting is
    done by those who asked."""

    def __init__(self, network: Network) -> None:
        self._buckets = TokenBuckets(network.requests_per_second, network.burst)

    def reserve(self, host: str) -> float:
        return self._buckets.reserve(host, time.monotonic())

    def silence(self, host: str) -> float:
        return self._buckets.silence(host, time.monotonic())

    def pause(self, host: str, seconds: float) -> None:
        self._buckets.pause(host, seconds, time.monotonic())

    def throttled_seconds(self) -> Mapping[str, float]:
        return dict(self._buckets.throttled_seconds)


class SharedBudget:
    """A bamba_data.storage.rate_limit.Budget that asks the keeper."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def take(self, host: str) -> None:
        import ray

        wait_seconds = ray.get(self._keeper.reserve.remote(host))
        while wait_seconds > 0:
            time.sleep(wait_seconds)
            # Somebody may have been told to pause (429, Retry-After) while we slept: that holds for all.
            wait_seconds = ray.get(self._keeper.silence.remote(host))

    def pause(self, host: str, seconds: float) -> None:
        import ray

        ray.get(self._keeper.pause.remote(host, seconds))
