"""Whether a task that failed is worth another try, and where.

What a machine, a store or a host says may pass; what an input or a recipe says will not. A store that does not answer
is asked for as long as the recipe says (network.retry_seconds), all else a few times.
"""

import random
import time
from dataclasses import dataclass, field
from typing import Any

from bamba_data.errors import (
    AccessDenied,
    BambaError,
    IntegrityError,
    MachineFault,
    SourceUnavailable,
    StoreUnavailable,
    WorkerFault,
)
from bamba_data.locking.input_faults import InputFaults

MAX_CRASHES = 25  # of one task whose worker died: evictions are common on a busy cluster
MAX_TRIES = 3  # of one task that answered with an error worth another try
MAX_WAIT_SECONDS = 30.0

#: Of remote inputs: a host that does not answer, bytes that were wrong on the way.
_MAY_PASS = (SourceUnavailable, IntegrityError)
#: A mount, a right or a module that only this machine lacks.
_MAY_BE_HERE_ONLY = (SourceUnavailable, AccessDenied, WorkerFault)


@dataclass(eq=False)
class Attempts:
    """What was tried for one item so far. `tasks` are the Ray tasks that run it now, one or two."""

    item: Any
    crashes: int = 0
    tries: int = 0
    not_before: float = 0.0  # of time.monotonic
    store_lost_at: float | None = None
    avoid: set[str] = field(default_factory=set)
    tasks: list[Any] = field(default_factory=list)

    def failed(self, cause: BambaError, is_only_machine: bool, retry_seconds: float) -> bool:
        """Take note of an error that the item's task ended with; whether to try again.

        Args:
            cause: The error; it names the machine, which is then avoided.
            is_only_machine: No other machine is left to try it on.
            retry_seconds: How long a store that does not answer is asked again.
        """
        self.tries += 1
        if isinstance(cause, StoreUnavailable):
            self.store_lost_at = self.store_lost_at or time.monotonic()
            return time.monotonic() - self.store_lost_at < retry_seconds
        self.avoid.add(cause.machine)
        if self.tries >= MAX_TRIES:
            return False
        if isinstance(cause, MachineFault) or (self.item.is_remote and _is_of(cause, _MAY_PASS)):
            return True
        return not is_only_machine and _is_of(cause, _MAY_BE_HERE_ONLY)

    def wait(self) -> None:
        """Not at once: the wait doubles with every try, and is drawn, so that many tasks do not come back together."""
        seconds = min(MAX_WAIT_SECONDS, 2.0**self.tries)
        self.not_before = time.monotonic() + random.uniform(0.2, 1.0) * seconds


def _is_of(cause: BambaError, kinds: tuple[type[BambaError], ...]) -> bool:
    """Whether it, or any of those that it tells together, is of these kinds."""
    return any(isinstance(fault, kinds) for fault in (cause.faults if isinstance(cause, InputFaults) else [cause]))
