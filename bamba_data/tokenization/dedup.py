"""Which document ids of a file were kept already: exact to 128 bit, 16 bytes an id, in bounded memory.

By digest: of 24 million ids two differ and share one with a probability of 24e6**2 / 2**129, some 1e-24.
"""

from collections.abc import Sequence

import numpy as np
import xxhash

#: Beyond so many ids in one file (384 MB) no more are remembered; `full` says so and the account notes it.
MAX_IDS = 24_000_000
_RECENT = 1 << 18  # ids before a merge, which copies the array: 92 copies for MAX_IDS


class SeenIds:
    """The ids so far. A sorted array, and a set of the newest that is merged into it: a set alone takes some six
    times as much memory."""

    def __init__(self, max_ids: int = MAX_IDS) -> None:
        self._known = np.zeros(0, "S16")  # sorted digests
        self._recent: set[bytes] = set()
        self._max_ids = max_ids

    @property
    def full(self) -> bool:
        return len(self._known) + len(self._recent) >= self._max_ids

    def add(self, ids: Sequence[str]) -> list[bool]:
        """Remember the ids, in order; for each, whether it is new."""
        digests = [xxhash.xxh3_128_digest(document_id.encode("utf-8", "surrogatepass")) for document_id in ids]
        known = self._among_known(digests)
        fresh = set(digests)
        if len(fresh) == len(digests) and not any(known) and self._recent.isdisjoint(fresh) and self._has_room(fresh):
            self._recent |= fresh
            if len(self._recent) >= _RECENT:
                self._merge()
            return [True] * len(digests)
        new: list[bool] = []
        for digest, is_known in zip(digests, known, strict=True):
            is_new = not is_known and digest not in self._recent
            new.append(is_new)
            if is_new and not self.full:
                self._recent.add(digest)
        if len(self._recent) >= _RECENT:
            self._merge()
        return new

    def _has_room(self, fresh: set[bytes]) -> bool:
        return len(self._known) + len(self._recent) + len(fresh) <= self._max_ids

    def _among_known(self, digests: list[bytes]) -> list[bool]:
        if not len(self._known) or not digests:
            return [False] * len(digests)
        asked = np.array(digests, "S16")
        places = np.minimum(np.searchsorted(self._known, asked), len(self._known) - 1)
        is_known: list[bool] = (self._known[places] == asked).tolist()
        return is_known

    def _merge(self) -> None:
        fresh = np.sort(np.array(list(self._recent), "S16"))
        self._known = np.insert(self._known, np.searchsorted(self._known, fresh), fresh)
        self._recent = set()
